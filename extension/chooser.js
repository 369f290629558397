// Chooses modes for whoever wishes, and tells when that failed: the tile shows `trouble`.

import Gio from 'gi://Gio';
import GObject from 'gi://GObject';

import * as Main from 'resource:///org/gnome/shell/ui/main.js';
import {gettext as _} from 'resource:///org/gnome/shell/extensions/extension.js';

import {look} from './modes.js';
import {isCancelled} from './router.js';

export const Chooser = GObject.registerClass({
    Properties: {
        // The latest failure in a sentence; empty once something succeeded.
        'trouble': GObject.ParamSpec.string(
            'trouble', null, null, GObject.ParamFlags.READWRITE, ''),
    },
}, class Chooser extends GObject.Object {
    constructor(router, settings, memory) {
        super();
        this._router = router;
        this._settings = settings;
        this._memory = memory;
        router.connectObject('appeared', () => this._greet(), this);
    }

    /**
     * Choose a mode; what goes wrong is told.
     *
     * @param {string} mode - the mode
     * @param {boolean} isUnseen - whether no menu shows that it worked
     */
    async choose(mode, isUnseen = false) {
        try {
            await this._router.setMode(mode);
        } catch (error) {
            if (!isCancelled(error))
                this._fail(error);
            return;
        }
        this.trouble = '';
        if (mode !== this._settings.get_string('default-mode'))
            this._settings.set_string('last-mode', mode);
        if (isUnseen)
            this._tell(_(look(mode).title));
    }

    /** Go back to the default mode, or from it to the one before. */
    async toggle() {
        const standard = this._settings.get_string('default-mode');
        const isStandard = this._router.read('Efficiency', 'Mode') === standard;
        await this.choose(isStandard ? this._settings.get_string('last-mode') : standard);
    }

    _greet() {
        const {owner} = this._router;
        if (this._memory.greeted === owner)
            return;
        this._memory.greeted = owner;
        this.trouble = '';
        if (this._settings.get_boolean('set-default-at-start'))
            this.choose(this._settings.get_string('default-mode'));
    }

    _fail(error) {
        if (error instanceof Gio.DBusError)
            Gio.DBusError.strip_remote_error(error);
        this.trouble = error.message;
        this._tell(_('The mode could not be changed'), error.message);
    }

    _tell(title, body = null) {
        if (this._settings.get_boolean('notifications'))
            Main.notify(`${_('AI Efficiency')}: ${title}`, body);
    }

    destroy() {
        this._router.disconnectObject(this);
    }
});
