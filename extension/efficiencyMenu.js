// The tile, its menu, and the icon in the top bar: all of it follows from what the router says.

import Clutter from 'gi://Clutter';
import GObject from 'gi://GObject';
import Pango from 'gi://Pango';
import St from 'gi://St';

import * as Main from 'resource:///org/gnome/shell/ui/main.js';
import * as PopupMenu from 'resource:///org/gnome/shell/ui/popupMenu.js';
import {QuickMenuToggle, SystemIndicator} from 'resource:///org/gnome/shell/ui/quickSettings.js';
import {gettext as _, ngettext} from 'resource:///org/gnome/shell/extensions/extension.js';

import {MODES, look} from './modes.js';
import {health, measures, work} from './status.js';

// A menu in Quick Settings does not scroll.
const BACKENDS_MAX = 6;

function capitalised(text) {
    return text.charAt(0).toUpperCase() + text.slice(1);
}

const Line = GObject.registerClass(
class Line extends PopupMenu.PopupBaseMenuItem {
    constructor() {
        // Reactive, as it would be dimmed else; but for nothing.
        super({style_class: 'ollamaproxy-line', activate: false, hover: false, can_focus: false});
        this._icon = new St.Icon({style_class: 'popup-menu-icon'});
        this._name = new St.Label({y_align: Clutter.ActorAlign.CENTER, x_expand: true});
        this._text = new St.Label({
            style_class: 'ollamaproxy-detail',
            y_align: Clutter.ActorAlign.CENTER,
        });
        this.add_child(this._icon);
        this.add_child(this._name);
        this.add_child(this._text);
        this._name.clutter_text.set({line_wrap: true, ellipsize: Pango.EllipsizeMode.NONE});
        this.label_actor = this._name;
    }

    show_(icon, name, text = '') {
        this.visible = !!name;
        this._icon.set({icon_name: icon, visible: !!icon});
        this._name.text = name;
        this._text.text = text;
    }
});

const EfficiencyToggle = GObject.registerClass(
class EfficiencyToggle extends QuickMenuToggle {
    constructor(extension, router, chooser, settings) {
        super({title: _('AI Efficiency')});
        // Its own since 49; before, it cannot be told when it is made.
        this.menuButtonAccessibleName = _('Choose a mode');
        this._router = router;
        this._chooser = chooser;
        this._settings = settings;
        this._modeItems = new Map();
        this._backendLines = [];

        this._modes = new PopupMenu.PopupMenuSection();
        this._backends = new PopupMenu.PopupMenuSection();
        this._measures = new Line();
        this._work = new Line();
        this._trouble = new Line();
        // First of all: separators look at the same moment what is visible beside them.
        this.menu.connect('open-state-changed', (_menu, isOpen) => isOpen && this._syncState());
        this.menu.addMenuItem(this._modes);
        this.menu.addMenuItem(new PopupMenu.PopupSeparatorMenuItem());
        this.menu.addMenuItem(this._trouble);
        this.menu.addMenuItem(this._measures);
        this.menu.addMenuItem(this._work);
        this.menu.addMenuItem(this._backends);
        this.menu.addMenuItem(new PopupMenu.PopupSeparatorMenuItem());
        const preferences = this.menu.addAction(_('AI Efficiency Settings'),
            () => extension.openPreferences()?.catch(error => console.error(error)));
        preferences.visible = Main.sessionMode.allowSettings;
        this.menu._settingsActions[extension.uuid] = preferences;

        this.connect('clicked', () => chooser.toggle());
        this.connect('destroy', () => this._destroyMenu());
        router.connectObject('changed', () => this._sync(), this);
        settings.connectObject('changed::default-mode', () => this._sync(), this);
        chooser.connectObject('notify::trouble', () => this._syncState(), this);
        this._sync();
    }

    _destroyMenu() {
        // The shell forgets a tile's menu: its actor is elsewhere in the panel, and it and its
        // sections listen to each other. Either would keep all of this alive.
        this.menu.destroy();
        for (const section of [this._modes, this._backends]) {
            this.menu.disconnectObject(section);
            section.disconnectObject(this.menu);
        }
    }

    _sync() {
        this.visible = this._router.owner !== null;
        const mode = this._router.read('Efficiency', 'Mode');
        if (!this.visible || mode === null)
            return;

        const told = this._router.read('Efficiency', 'Modes') ?? [];
        this._syncModes(told.map(each => each.name), told);
        for (const [name, item] of this._modeItems) {
            item.setOrnament(name === mode
                ? PopupMenu.Ornament.CHECK
                : PopupMenu.Ornament.NONE);
        }

        const effective = this._router.read('Efficiency', 'EffectiveMode') ?? mode;
        const {title, icon: iconName} = look(effective, told);
        const isChosen = effective === mode;
        const subtitle = isChosen ? _(title) : `${_(look(mode, told).title)} · ${_(title)}`;
        this.set({subtitle, iconName, checked: mode !== this._settings.get_string('default-mode')});
        const reason = this._router.read('Efficiency', 'Reason') ?? '';
        // The subtitle may not have the room.
        this.menu.setHeader(iconName, _('AI Efficiency'),
            isChosen ? capitalised(reason) : `${_(title)}: ${reason}`);
        if (this.menu.isOpen)
            this._syncState();
    }

    _syncModes(names, told) {
        const ordered = [...MODES.keys()].filter(name => names.includes(name));
        ordered.push(...names.filter(name => !MODES.has(name)));
        if (ordered.join() === [...this._modeItems.keys()].join())
            return;
        this._modes.removeAll();
        this._modeItems.clear();
        for (const name of ordered) {
            const {title, icon} = look(name, told);
            const item = new PopupMenu.PopupImageMenuItem(_(title), icon);
            item.connect('activate', () => this._chooser.choose(name));
            this._modeItems.set(name, item);
            this._modes.addMenuItem(item);
        }
    }

    _syncState() {
        const router = this._router;
        const state = router.read('Thermal', 'State');
        const isHot = state === 'severe' || state === 'critical';
        this._trouble.show_('dialog-error-symbolic', this._chooser.trouble);
        this._measures.show_(isHot ? 'dialog-warning-symbolic' : null, measures({
            batteryPercent: router.read('SystemState', 'BatteryPercent'),
            onBattery: router.read('SystemState', 'OnBattery'),
            watts: router.read('SystemState', 'PowerWatts'),
            zones: router.read('Thermal', 'Zones'),
            fans: router.read('Thermal', 'Fans'),
        }));
        this._work.show_(null,
            work(router.read('Routing', 'InFlight'), router.read('Routing', 'QueueDepths')));
        this._syncBackends((router.read('Backends', 'Backends') ?? []).filter(each => each.enabled));
    }

    _syncBackends(backends) {
        const shown = backends.slice(0, BACKENDS_MAX);
        const left = backends.length - shown.length;
        const count = shown.length + (left ? 1 : 0);
        if (this._backendLines.length !== count) {
            this._backends.removeAll();
            this._backendLines = Array.from({length: count}, () => new Line());
            this._backendLines.forEach(line => this._backends.addMenuItem(line));
        }
        shown.forEach((backend, i) => {
            const {icon, text} = health(backend);
            this._backendLines[i].show_(icon, backend.name || backend.id, text);
        });
        if (left)
            this._backendLines.at(-1).show_(null, ngettext('%d more', '%d more', left).format(left));
    }
});

export const Indicator = GObject.registerClass(
class Indicator extends SystemIndicator {
    constructor(extension, router, chooser, settings) {
        super();
        const icon = this._addIndicator();
        const toggle = new EfficiencyToggle(extension, router, chooser, settings);
        toggle.bind_property('icon-name', icon, 'icon-name', GObject.BindingFlags.SYNC_CREATE);
        const sync = () => (icon.visible = toggle.visible && settings.get_boolean('show-indicator'));
        toggle.connect('notify::visible', sync);
        settings.connectObject('changed::show-indicator', sync, this);
        sync();
        this.quickSettingsItems.push(toggle);
    }
});
