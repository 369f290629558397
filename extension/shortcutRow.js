// A row of the preferences that shows a shortcut, and records another one when it is activated.

import Adw from 'gi://Adw';
import Gdk from 'gi://Gdk';
import GObject from 'gi://GObject';
import Gtk from 'gi://Gtk';

export const ShortcutRow = GObject.registerClass(
class ShortcutRow extends Adw.ActionRow {
    constructor(settings, key, title, texts) {
        super({title, activatable: true});
        this._settings = settings;
        this._key = key;
        this._texts = texts;
        this._label = new Gtk.ShortcutLabel({
            valign: Gtk.Align.CENTER,
            disabled_text: texts.disabled,
        });
        this.add_suffix(this._label);
        this._sync();
        const id = settings.connect(`changed::${key}`, () => this._sync());
        this.connect('destroy', () => settings.disconnect(id));
        this.connect('activated', () => this._record());
    }

    _sync() {
        this._label.accelerator = this._settings.get_strv(this._key)[0] ?? '';
    }

    _record() {
        const dialog = new Adw.AlertDialog({heading: this._texts.press, body: this._texts.explain});
        const keys = new Gtk.EventControllerKey({propagation_phase: Gtk.PropagationPhase.CAPTURE});
        keys.connect('key-pressed', (_keys, value, code, state) => {
            const mask = state & Gtk.accelerator_get_default_mod_mask();
            if (value === Gdk.KEY_Escape && !mask) {
                dialog.force_close();
            } else if (value === Gdk.KEY_BackSpace && !mask) {
                this._settings.set_strv(this._key, []);
                dialog.force_close();
            } else if (mask & ~Gdk.ModifierType.SHIFT_MASK && Gtk.accelerator_valid(value, mask)) {
                // Without a modifier besides Shift it would be taken from whoever types.
                const name = Gtk.accelerator_name_with_keycode(null, value, code, mask);
                this._settings.set_strv(this._key, [name]);
                dialog.force_close();
            }
            return Gdk.EVENT_STOP;
        });
        dialog.add_controller(keys);
        dialog.present(this);
    }
});
