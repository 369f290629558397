// The six modes in the order of the menu. Titles are translated where they are shown: the shell and
// the preferences each have a gettext of their own.

const N_ = text => text;

export const MODES = new Map([
    ['performance', {title: N_('Performance'), icon: 'power-profile-performance-symbolic'}],
    ['balanced', {title: N_('Balanced'), icon: 'power-profile-balanced-symbolic'}],
    ['efficiency', {title: N_('Efficiency'), icon: 'power-profile-power-saver-symbolic'}],
    ['quiet', {title: N_('Quiet'), icon: 'audio-volume-low-symbolic'}],
    ['auto', {title: N_('Auto'), icon: 'system-run-symbolic'}],
    ['ultra-efficiency', {title: N_('Ultra Efficiency'), icon: 'battery-caution-symbolic'}],
]);

/**
 * What to show for a mode, also for one that only a newer router knows.
 *
 * @param {string} name - as on D-Bus
 * @param {object[]} told - what the router says of its modes
 * @returns {{title: string, icon: string}}
 */
export function look(name, told = []) {
    const {title = name, icon = 'dialog-question-symbolic'} =
        MODES.get(name) ?? told.find(mode => mode.name === name) ?? {};
    return {title, icon};
}
