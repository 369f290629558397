// Puts the tile, the shortcuts and the quiet hours in place, and takes all of it away again.

import * as Main from 'resource:///org/gnome/shell/ui/main.js';
import {Extension} from 'resource:///org/gnome/shell/extensions/extension.js';

import {Chooser} from './chooser.js';
import {Indicator} from './efficiencyMenu.js';
import {QuietHours} from './quietHours.js';
import {Router} from './router.js';
import {Shortcuts} from './shortcuts.js';

export default class AiEfficiencyExtension extends Extension {
    enable() {
        // Locking the screen disables and enables again: what was done once is not done anew then.
        this._memory ??= {greeted: null, quiet: null};
        this._settings = this.getSettings();
        this._router = new Router();
        this._chooser = new Chooser(this._router, this._settings, this._memory);
        this._quietHours = new QuietHours(this._router, this._settings, this._memory);
        this._shortcuts = new Shortcuts(this._router, this._chooser, this._settings);
        this._indicator = new Indicator(this, this._router, this._chooser, this._settings);
        Main.panel.statusArea.quickSettings.addExternalIndicator(this._indicator);
        this._router.follow(this.dir.get_child('dbus'));
    }

    disable() {
        this._indicator.quickSettingsItems.forEach(item => item.destroy());
        this._indicator.destroy();
        this._shortcuts.destroy();
        this._quietHours.destroy(Main.sessionMode.isLocked);
        this._chooser.destroy();
        this._router.destroy();
        this._indicator = null;
        this._shortcuts = null;
        this._quietHours = null;
        this._chooser = null;
        this._router = null;
        this._settings = null;
    }
}
