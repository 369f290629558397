// Holds Quiet in the owner's quiet hours. A hold, not a choice: what was chosen is in force again at
// their end, and whoever chooses a mode within them has it until the next ones begin.

import GLib from 'gi://GLib';

import {gettext as _} from 'resource:///org/gnome/shell/extensions/extension.js';

/**
 * Whether a minute of the day lies in a span that may include midnight; one of no length has none.
 *
 * @param {number} minute - 0 to 1439
 * @param {number} begin - the first
 * @param {number} end - the first that is no more
 * @returns {boolean}
 */
export function isWithin(minute, begin, end) {
    if (begin <= end)
        return begin <= minute && minute < end;
    return minute >= begin || minute < end;
}

export class QuietHours {
    // `memory.quiet` is {owner, cookie} of the hold in these hours, null outside of them.
    constructor(router, settings, memory) {
        this._router = router;
        this._settings = settings;
        this._memory = memory;
        this._timer = 0;
        router.connectObject('appeared', () => this._look(), this);
        settings.connectObject('changed', (_settings, key) => {
            if (key.startsWith('quiet-hours'))
                this._look();
        }, this);
        this._look();
    }

    _look() {
        this._stopTimer();
        const isOn = this._settings.get_boolean('quiet-hours');
        const now = GLib.DateTime.new_now_local();
        if (isOn) {
            // Each minute, not once at the next edge: the clock may be set, and the machine sleep.
            this._timer = GLib.timeout_add_seconds(GLib.PRIORITY_LOW, 60 - now.get_second(), () => {
                this._timer = 0;
                this._look();
                return GLib.SOURCE_REMOVE;
            });
        }
        const isQuiet = isOn && isWithin(now.get_hour() * 60 + now.get_minute(),
            this._settings.get_int('quiet-hours-begin'), this._settings.get_int('quiet-hours-end'));
        const {owner} = this._router;
        if (!isQuiet)
            this._release();
        else if (owner !== null && this._memory.quiet?.owner !== owner)
            this._hold(owner);
    }

    async _hold(owner) {
        const held = {owner, cookie: null};
        this._memory.quiet = held;
        try {
            held.cookie = await this._router.hold('quiet', _('quiet hours'));
            if (this._memory.quiet !== held)
                this._router.release(held.cookie);
        } catch (error) {
            if (this._memory.quiet === held)
                this._memory.quiet = null;
            console.warn(`AI Efficiency cannot hold Quiet: ${error.message}`);
        }
    }

    _release() {
        const held = this._memory.quiet;
        this._memory.quiet = null;
        if (held && held.cookie !== null && held.owner === this._router.owner)
            this._router.release(held.cookie);
    }

    _stopTimer() {
        if (this._timer)
            GLib.source_remove(this._timer);
        this._timer = 0;
    }

    /**
     * Stop looking at the clock.
     *
     * @param {boolean} keep - whether the hold stays: fans are not to be heard behind a lock screen
     */
    destroy(keep) {
        this._stopTimer();
        this._settings.disconnectObject(this);
        this._router.disconnectObject(this);
        if (!keep)
            this._release();
    }
}
