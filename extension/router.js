// The router on the session bus: what it says last is kept here, and what it is told goes from here.
// Nothing waits: a compositor that did would freeze the desktop for as long as the router thinks.

import Gio from 'gi://Gio';
import GObject from 'gi://GObject';

import {gettext as _} from 'resource:///org/gnome/shell/extensions/extension.js';

Gio._promisify(Gio.File.prototype, 'load_contents_async');

const NAME = 'ie.fio.OllamaProxy';
const PATH = '/ie/fio/OllamaProxy';
const INTERFACES = ['Efficiency', 'Backends', 'Routing', 'Thermal', 'SystemState'];

/**
 * Whether something failed only because nobody wants it any more.
 *
 * @param {Error} error - what was caught
 * @returns {boolean}
 */
export function isCancelled(error) {
    return error.matches?.(Gio.IOErrorEnum, Gio.IOErrorEnum.CANCELLED) ?? false;
}

export const Router = GObject.registerClass({
    Signals: {
        // Something that it says, or whether it is there at all.
        'changed': {},
        // It is there: another than before, or after an absence. Properties are known.
        'appeared': {},
    },
}, class Router extends GObject.Object {
    constructor() {
        super();
        this._proxies = new Map();
        this._cancellable = new Gio.Cancellable();
        this._owner = null;
    }

    /**
     * Begin to listen.
     *
     * @param {Gio.File} directory - where the interfaces' XML is
     */
    async follow(directory) {
        try {
            await Promise.all(INTERFACES.map(word => this._followOne(word, directory)));
            this._sync();
        } catch (error) {
            if (!isCancelled(error))
                console.error(error, 'AI Efficiency cannot listen to the router');
        }
    }

    async _followOne(word, directory) {
        const file = directory.get_child(`${NAME}.${word}.xml`);
        const [bytes] = await file.load_contents_async(this._cancellable);
        const Proxy = Gio.DBusProxy.makeProxyWrapper(new TextDecoder().decode(bytes));
        // Not started by being watched: who stopped it wants it stopped.
        const proxy = await Proxy.newAsync(Gio.DBus.session, NAME, `${PATH}/${word}`,
            this._cancellable, Gio.DBusProxyFlags.DO_NOT_AUTO_START);
        this._proxies.set(word, proxy);
        proxy.connectObject(
            'g-properties-changed', () => this._sync(),
            'notify::g-name-owner', () => this._sync(), this);
    }

    _sync() {
        const {owner} = this;
        const isNew = owner !== null && owner !== this._owner;
        this._owner = owner;
        this.emit('changed');
        if (isNew)
            this.emit('appeared');
    }

    /** @returns {string|null} its unique name on the bus; null: it is not there */
    get owner() {
        // All five are one connection's; it is there once the last of them is known.
        if (this._proxies.size < INTERFACES.length)
            return null;
        return this._proxies.get('Efficiency').g_name_owner || null;
    }

    /**
     * What it said last.
     *
     * @param {string} word - the interface
     * @param {string} property - of that
     * @returns {any} null where it is not known
     */
    read(word, property) {
        return this._proxies.get(word)?.get_cached_property(property)?.recursiveUnpack() ?? null;
    }

    /** @param {string} mode - to choose */
    async setMode(mode) {
        await this._efficiency().SetModeAsync(mode, this._cancellable);
    }

    /**
     * Have a mode in force, whatever was chosen, until it is released.
     *
     * @param {string} mode - the mode
     * @param {string} reason - for people
     * @returns {Promise<number>} what to release it by
     */
    async hold(mode, reason) {
        // Neither this nor a release is cancelled on leaving: nobody would know what came of it.
        const [cookie] = await this._efficiency().HoldAsync(mode, reason, 'GNOME');
        return cookie;
    }

    /**
     * End a hold. It may have ended before, when somebody chose a mode: that is as well.
     *
     * @param {number} cookie - what `hold` returned
     */
    release(cookie) {
        this._proxies.get('Efficiency')?.ReleaseAsync(cookie).catch(
            error => console.debug(`AI Efficiency: ${error.message}`));
    }

    _efficiency() {
        if (this.owner === null)
            throw new Error(_('Ollama Proxy is not running'));
        return this._proxies.get('Efficiency');
    }

    destroy() {
        this._cancellable.cancel();
        for (const proxy of this._proxies.values())
            proxy.disconnectObject(this);
    }
});
