"""A pointer and keys for a GNOME Shell without any: JavaScript that it runs upon itself.

Real events of its own virtual devices, so that what they hit is what a user would hit.
"""

_ACTING = """(async () => {
const Clutter = (await import('gi://Clutter')).default;
const wait = ms => new Promise(done => GLib.timeout_add(0, ms, () => (done(), GLib.SOURCE_REMOVE)));
const seat = (global.stage.context?.get_backend() ?? Clutter.get_default_backend()).get_default_seat();
const now = () => GLib.get_monotonic_time();
%s
})()"""
# A new pointer's first motions may lose their y: along the top bar they open other menus.
_PARK = """
const mouse = globalThis.__mouse ??= seat.create_virtual_device(Clutter.InputDeviceType.POINTER_DEVICE);
for (let i = 0; i < 100 && global.get_pointer()[1] !== 700; i++) {
    mouse.notify_absolute_motion(now(), 100 + i % 2, 700); await wait(60); }
return global.get_pointer()[1] === 700;"""
# What is aimed at may move still.
_CLICK = """
const [mouse, target] = [globalThis.__mouse, %s];
for (let i = 0; ; i++) {
    const {x, y} = target.get_transformed_extents().get_center();
    mouse.notify_absolute_motion(now(), x + i %% 2, y);
    await wait(60);
    const [atX, atY] = global.get_pointer();
    const hit = global.stage.get_actor_at_pos(Clutter.PickMode.REACTIVE, atX, atY);
    if (i > 1 && Math.hypot(atX - x, atY - y) < 3 && target.contains(hit)) break;
    if (i === 100) throw new Error(`at ${atX}, ${atY}, for ${x}, ${y}, there is ${hit}`);
}
for (const state of [Clutter.ButtonState.PRESSED, Clutter.ButtonState.RELEASED]) {
    mouse.notify_button(now(), Clutter.BUTTON_PRIMARY, state); await wait(50); }"""
# By the kernel's numbers of keys: what a key means is the shell's business.
_KEYS = """
if (!globalThis.__keys) {
    globalThis.__keys = seat.create_virtual_device(Clutter.InputDeviceType.KEYBOARD_DEVICE);
    await wait(300);
}
const keys = %s;
for (const key of keys) { __keys.notify_key(now(), key, Clutter.KeyState.PRESSED); await wait(30); }
for (const key of keys.reverse()) {
    __keys.notify_key(now(), key, Clutter.KeyState.RELEASED); await wait(30); }"""
KEYS = {"Super": 125, "Tab": 15, "Return": 28, "F8": 66, "F9": 67, "F10": 68}
PARKING = _ACTING % _PARK


def clicking(actor: str) -> str:
    """A click of the first button on an actor."""
    return _ACTING % (_CLICK % actor)


def pressing(*keys: str) -> str:
    """Keys that are pressed together, and let go."""
    return _ACTING % (_KEYS % [KEYS[key] for key in keys])
