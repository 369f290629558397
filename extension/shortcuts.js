// Keys that choose a mode, as set in the preferences; none by default.

import Meta from 'gi://Meta';
import Shell from 'gi://Shell';

import * as Main from 'resource:///org/gnome/shell/ui/main.js';

import {MODES} from './modes.js';

export class Shortcuts {
    constructor(router, chooser, settings) {
        this._names = [];
        this._add('next-mode', settings, () => {
            const modes = [...MODES.keys()];
            const mode = router.read('Efficiency', 'Mode');
            chooser.choose(modes[(modes.indexOf(mode) + 1) % modes.length], true);
        });
        this._add('toggle-quiet', settings, () => {
            const isQuiet = router.read('Efficiency', 'Mode') === 'quiet';
            chooser.choose(isQuiet ? settings.get_string('default-mode') : 'quiet', true);
        });
    }

    _add(name, settings, act) {
        Main.wm.addKeybinding(name, settings, Meta.KeyBindingFlags.IGNORE_AUTOREPEAT,
            Shell.ActionMode.NORMAL | Shell.ActionMode.OVERVIEW, act);
        this._names.push(name);
    }

    destroy() {
        this._names.forEach(name => Main.wm.removeKeybinding(name));
    }
}
