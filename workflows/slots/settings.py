"""What operators change of a site's settings while everything runs: judged as a whole, then one new revision."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta

from deltaferry.model.zones import is_time_zone
from deltaferry.planning.throttle import parse_throttle
from deltaferry.planning.windows import parse_windows
from workflows.messages.operator_input import SettingsChange
from workflows.messages.site import ApplianceProfile, SiteProfile

_NOT_A_SETTING = frozenset({"reason", "appliances"})


def changed_profile(profile: SiteProfile, change: SettingsChange) -> SiteProfile:
    """Return a site's settings with a change applied, as the next revision. Raises ValueError with every mistake's sentence."""
    given = {
        field.name: value
        for field in dataclasses.fields(change)
        if field.name not in _NOT_A_SETTING and (value := getattr(change, field.name)) is not None
    }
    if change.appliances is not None:
        given["appliances"] = tuple(ApplianceProfile(name, blackout) for name, blackout in change.appliances.items())
    if not given:
        raise ValueError('Nothing is to be changed. Write for example {"disks_per_host": 4}')
    wanted = dataclasses.replace(profile, **given, revision=profile.revision + 1)
    mistakes = [*_unreadable(wanted), *_contradictions(wanted)]
    if mistakes:
        raise ValueError(" ".join(mistakes))
    return wanted


def _unreadable(wanted: SiteProfile) -> list[str]:
    texts: list[tuple[str, str, Callable[[str], object]]] = [
        ("blackout", wanted.blackout, parse_windows),
        ("off_hours", wanted.off_hours, parse_windows),
        ("throttle", wanted.throttle, parse_throttle),
        *((f"blackout of the appliance {one.name!r}", one.blackout, parse_windows) for one in wanted.appliances),
    ]
    mistakes = []
    for what, text, read in texts:
        try:
            read(text)
        except ValueError as error:
            mistakes.append(f"{what} cannot be read: {error}")
    if not is_time_zone(wanted.time_zone):
        mistakes.append('time_zone is not an IANA time zone: write one such as "Europe/London".')
    return mistakes


def _contradictions(wanted: SiteProfile) -> list[str]:
    mistakes = []
    if not timedelta(0) < wanted.min_interval <= wanted.max_interval:
        mistakes.append("min_interval must be above zero and not above max_interval.")
    if wanted.scrub_every < timedelta(0):
        mistakes.append("scrub_every must not be negative; zero means only on request.")
    if any(one.name == wanted.appliance for one in wanted.appliances):
        mistakes.append(f"{wanted.appliance!r} is the site's primary appliance: name only the scale-out ones in appliances.")
    return mistakes
