// What the machine and its backends are like, in a few words. Values in, text out; what is not known
// is left out, and never 0.

import {gettext as _, ngettext} from 'resource:///org/gnome/shell/extensions/extension.js';

const DOT = ' · ';
const NO_BREAK = '\u00a0';

/**
 * The line of state: battery, the hottest place, the fastest fan, watts.
 *
 * @param {object} machine - batteryPercent, onBattery, watts; zones and fans as on D-Bus
 * @returns {string} empty where nothing is known
 */
export function measures({batteryPercent, onBattery, watts, zones, fans}) {
    return [
        battery(batteryPercent, onBattery),
        heat(zones ?? []),
        turning(fans ?? []),
        watts === null ? null : _('%s W').format(watts.toFixed(watts < 10 ? 1 : 0)),
    ].filter(text => text !== null)
        // Where there is no room for all of them, the line breaks between, not within.
        .map(text => text.replaceAll(' ', NO_BREAK))
        .join(`${NO_BREAK}· `);
}

function battery(percent, onBattery) {
    if (percent === null)
        return onBattery === false ? _('Mains') : null;
    const text = _('Battery %d %%').format(Math.round(percent));
    return onBattery === false ? _('%s, plugged in').format(text) : text;
}

function heat(zones) {
    const known = zones.filter(zone => Number.isFinite(zone.temperature_c));
    // A disk may be hotter than all that computes; it is told of only where nothing else is known.
    const computing = known.filter(zone => zone.part);
    const [hottest] = (computing.length ? computing : known)
        .sort((a, b) => b.temperature_c - a.temperature_c);
    return hottest ? `${place(hottest)} ${degrees(hottest.temperature_c)}` : null;
}

function place({kind, name}) {
    // A sensor's own name is a driver's, with an address of the bus in it.
    switch (kind) {
    case 'cpu': return _('CPU');
    case 'gpu': return _('GPU');
    case 'npu': return _('NPU');
    case 'memory': return _('Memory');
    case 'storage': return _('Disk');
    default: return name;
    }
}

function turning(fans) {
    const speeds = fans.map(fan => fan.rpm).filter(Number.isFinite);
    if (speeds.length === 0)
        return null;
    const fastest = Math.round(Math.max(...speeds));
    return fastest === 0 ? _('Fan off') : _('Fan %d rpm').format(fastest);
}

function degrees(celsius) {
    return _('%d °C').format(Math.round(celsius));
}

/**
 * What is being served and what waits.
 *
 * @param {number|null} inFlight - slots taken
 * @param {object|null} depths - by backend, then by priority
 * @returns {string} empty where the router is idle
 */
export function work(inFlight, depths) {
    const waiting = Object.values(depths ?? {})
        .flatMap(Object.values)
        .reduce((sum, count) => sum + count, 0);
    const texts = [];
    if (inFlight)
        texts.push(ngettext('%d request running', '%d requests running', inFlight).format(inFlight));
    if (waiting)
        texts.push(ngettext('%d waiting', '%d waiting', waiting).format(waiting));
    return texts.join(DOT);
}

/**
 * What stands beside a backend's name.
 *
 * @param {object} backend - as on D-Bus
 * @returns {{icon: string, text: string}}
 */
export function health({healthy, temperature_c: celsius, throttled, power_watts: power}) {
    if (!healthy)
        return {icon: 'network-offline-symbolic', text: _('Not reachable')};
    const texts = [];
    if (throttled)
        texts.push(_('Slowed by heat'));
    if (Number.isFinite(celsius))
        texts.push(degrees(celsius));
    else if (Number.isFinite(power?.value))
        texts.push(_('%s W').format(power.value.toFixed(0)));
    return {
        icon: throttled ? 'dialog-warning-symbolic' : 'object-select-symbolic',
        text: texts.join(DOT),
    };
}
