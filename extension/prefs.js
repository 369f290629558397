// The preferences: every key of the schema that a person sets, each bound to a row.

import Adw from 'gi://Adw';
import Gio from 'gi://Gio';
import GObject from 'gi://GObject';
import Gtk from 'gi://Gtk';

import {ExtensionPreferences, gettext as _} from 'resource:///org/gnome/Shell/Extensions/js/extensions/prefs.js';

import {MODES} from './modes.js';
import {ShortcutRow} from './shortcutRow.js';

const STEP_MIN = 30;

export default class AiEfficiencyPreferences extends ExtensionPreferences {
    fillPreferencesWindow(window) {
        const settings = this.getSettings();
        const page = new Adw.PreferencesPage({
            title: _('AI Efficiency'),
            icon_name: 'preferences-system-symbolic',
        });
        page.add(this._appearance(settings));
        page.add(this._mode(settings));
        page.add(this._quietHours(settings));
        page.add(this._shortcuts(settings));
        window.add(page);
        window.set_default_size(600, 760);
    }

    _appearance(settings) {
        const group = new Adw.PreferencesGroup({title: _('Appearance')});
        group.add(switchRow(settings, 'show-indicator',
            _('Icon in the top bar'), _('Shows the mode in force')));
        group.add(switchRow(settings, 'notifications',
            _('Notifications'), _('Of failures, and of modes chosen by a shortcut')));
        return group;
    }

    _mode(settings) {
        const group = new Adw.PreferencesGroup({title: _('Mode')});
        const names = [...MODES.keys()];
        group.add(choiceRow(settings, 'default-mode', {
            title: _('Default mode'),
            subtitle: _('What a click on the highlighted tile goes back to'),
            labels: names.map(name => _(MODES.get(name).title)),
            read: () => names.indexOf(settings.get_string('default-mode')),
            write: index => settings.set_string('default-mode', names[index]),
        }));
        group.add(switchRow(settings, 'set-default-at-start',
            _('Choose it at the start'), _('At log-in, and when the router starts')));
        return group;
    }

    _quietHours(settings) {
        const group = new Adw.PreferencesGroup({
            title: _('Quiet hours'),
            description: _('Quiet is in force in these hours, unless you choose another mode within them. ' +
                'Hours in the router\'s own configuration hold without the desktop, and for Auto only.'),
        });
        const toggle = switchRow(settings, 'quiet-hours', _('Keep fans quiet'), '');
        group.add(toggle);
        for (const [key, title] of [['quiet-hours-begin', _('From')], ['quiet-hours-end', _('Until')]]) {
            const row = choiceRow(settings, key, {
                title,
                labels: Array.from({length: 1440 / STEP_MIN}, (_each, i) => timeOfDay(i * STEP_MIN)),
                read: () => Math.floor(settings.get_int(key) / STEP_MIN),
                write: index => settings.set_int(key, index * STEP_MIN),
            });
            toggle.bind_property('active', row, 'sensitive', GObject.BindingFlags.SYNC_CREATE);
            group.add(row);
        }
        return group;
    }

    _shortcuts(settings) {
        const group = new Adw.PreferencesGroup({title: _('Keyboard shortcuts')});
        const texts = {
            disabled: _('Disabled'),
            press: _('Press the new shortcut'),
            explain: _('Escape cancels, Backspace removes it.'),
        };
        group.add(new ShortcutRow(settings, 'next-mode', _('Next mode'), texts));
        group.add(new ShortcutRow(settings, 'toggle-quiet', _('Quiet on and off'), texts));
        return group;
    }
}

function switchRow(settings, key, title, subtitle) {
    const row = new Adw.SwitchRow({title, subtitle});
    settings.bind(key, row, 'active', Gio.SettingsBindFlags.DEFAULT);
    return row;
}

function choiceRow(settings, key, {title, subtitle = '', labels, read, write}) {
    const row = new Adw.ComboRow({title, subtitle, model: Gtk.StringList.new(labels)});
    row.selected = read();
    row.connect('notify::selected', () => {
        // A value between two rows is left as it is until another row is chosen.
        if (row.selected !== read())
            write(row.selected);
    });
    const id = settings.connect(`changed::${key}`, () => (row.selected = read()));
    row.connect('destroy', () => settings.disconnect(id));
    return row;
}

function timeOfDay(minute) {
    const two = number => `${number}`.padStart(2, '0');
    return `${two(Math.floor(minute / 60))}:${two(minute % 60)}`;
}
