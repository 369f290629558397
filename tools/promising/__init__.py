"""The scheduler's promises, each measured by itself: see tools/promises."""
