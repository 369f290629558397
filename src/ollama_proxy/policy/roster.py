"""Who is in the fleet: what each source of nodes says, made into one list in which nobody is twice.

Rule 1: nothing here knows the network or the clock; `now` is an argument, in seconds.
Rule 2: a node is in while a source lists it. A source that is lost is believed on for `lost_s`, and
        for longer of nodes that answer: what is not known any more is no reason to leave.
Rule 3: one id is one node. Of its addresses one is used; of two machines that tell one id, the first
        alone, and that is said once.
Rule 4: who was in, and left, comes back after `dwell_s` on the list without a break, no sooner.
"""

import enum
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import attrs

from ollama_proxy.policy.whereabouts import address_order, host_of, port_of

MOST_NODES = 512
STRANGERS_TOLD = 16
_ID_MOST = 63  # of a backend's id
_USUAL_PORT = 8080
_ITSELF = "itself"


class Source(enum.StrEnum):
    """What tells of nodes; in this order one is believed rather than another."""

    NODES = "nodes"
    DNS = "dns"
    KUBERNETES = "kubernetes"
    AVAHI = "avahi"


class _Parting(enum.Enum):
    """When a node leaves that a source, which works, lists no more."""

    AT_ONCE = enum.auto()
    AFTER_A_WHILE = enum.auto()
    UNLESS_ALIVE = enum.auto()


_PARTING = {
    Source.NODES: _Parting.AT_ONCE,
    # One answer of many servers is but a part of the addresses; but whoever takes an address out of
    # DNS means it, however well what is there now answers.
    Source.DNS: _Parting.AFTER_A_WHILE,
    # It knows, and gives the address to somebody else next.
    Source.KUBERNETES: _Parting.AT_ONCE,
    # On Wi-Fi what is sent to all gets lost; served traffic tells more than a list does.
    Source.AVAHI: _Parting.UNLESS_ALIVE,
}


@attrs.frozen(kw_only=True)
class FoundNode:
    """What a source tells of one node.

    Attributes:
        url: http(s)://host:port, as `whereabouts.url_of` writes it.
        id: the node's; empty where the source does not tell.
        machine: tells machines apart, within one source; empty where it does not tell.
        name: for people; empty where there is none.
        is_proved: its door for paired routers is meant, where a certificate proves who it is.
    """

    url: str
    id: str = ""
    machine: str = ""
    name: str = ""
    is_proved: bool = False


@attrs.frozen(kw_only=True)
class Member:
    """A node that is in.

    Attributes:
        url: where.
        backend_id: what it is called here, as long as it is in.
        name: for people.
        source: who told of it; of several the first.
        node_id: its own; empty until it is known.
        is_proved: it is spoken with as a paired router is.
        doubt: what is wrong with it; empty: nothing.
    """

    url: str
    backend_id: str
    name: str
    source: Source
    node_id: str = ""
    is_proved: bool = False
    doubt: str = ""


@attrs.frozen(kw_only=True)
class Configured:
    """What is described by hand, and goes before all that is found.

    Attributes:
        urls: endpoints of backends.
        node_ids: of those that are nodes, as far as they are known.
        backend_ids: names that are taken.
    """

    urls: Collection[str] = ()
    node_ids: Collection[str] = ()
    backend_ids: Collection[str] = ()


@attrs.frozen(kw_only=True)
class Review:
    """What became of the list.

    Attributes:
        members: who is in.
        joined: who is new.
        left: who is not in any more.
        remarks: what an owner should know, each once for as long as it is so.
    """

    members: tuple[Member, ...]
    joined: tuple[Member, ...]
    left: tuple[Member, ...]
    remarks: tuple[str, ...]


@attrs.define
class _Sighting:
    node: FoundNode
    since: float  # on the list without a break
    seen: float  # on the list for the last time, where it is not now
    is_listed: bool = True


@attrs.define
class _Candidate:
    """All that is told of one address."""

    url: str
    source: Source
    since: float
    node_id: str = ""
    name: str = ""
    is_proved: bool = False
    machines: dict[str, str] = attrs.field(factory=dict)  # by whose word it is


@attrs.define(kw_only=True)
class Roster:
    """The list, and what it is made from.

    Attributes:
        own_id: this router's; a node of that id is itself.
        own_machine: what it tells of its machine; empty: nothing.
        lost_s: how long one is believed in of whom nothing is heard.
        dwell_s: how long one that left must be listed before it is in again.
        paired: the ids of those that can prove who they are.
        trusts_all: the word of anybody in the local network is taken.
    """

    own_id: str
    lost_s: float
    dwell_s: float
    own_machine: str = ""
    paired: Collection[str] = ()
    trusts_all: bool = False
    _seen: dict[Source, dict[str, _Sighting]] = attrs.field(init=False, factory=dict)
    _lost: set[Source] = attrs.field(init=False, factory=set)
    _alive: dict[str, float] = attrs.field(init=False, factory=dict)
    _told: dict[str, str] = attrs.field(init=False, factory=dict)
    _machines: dict[str, str] = attrs.field(init=False, factory=dict)
    _members: dict[str, Member] = attrs.field(init=False, factory=dict)
    _joined: dict[str, float] = attrs.field(init=False, factory=dict)
    _left: dict[str, float] = attrs.field(init=False, factory=dict)
    _silent: set[str] = attrs.field(init=False, factory=set)
    _remarked: set[str] = attrs.field(init=False, factory=set)
    _strangers: set[str] = attrs.field(init=False, factory=set)
    _too_many: set[Source] = attrs.field(init=False, factory=set)

    # -- what is heard ---------------------------------------------------------------------------

    def saw(self, source: Source, nodes: Iterable[FoundNode], now: float) -> None:
        """A source works, and these are all the nodes that it lists."""
        known = self._seen.setdefault(source, {})
        listed = {node.url: node for node in nodes}
        kept = sorted(listed, key=address_order)[:MOST_NODES]
        (self._too_many.add if len(kept) < len(listed) else self._too_many.discard)(source)
        for url in kept:
            sighting = known.get(url)
            if sighting is None or not sighting.is_listed:
                known[url] = _Sighting(listed[url], now, now)
            else:
                sighting.node = listed[url]
        for url in known.keys() - set(kept):
            self._miss(known[url], now)
        self._lost.discard(source)

    def lost(self, source: Source, now: float) -> None:
        """A source works no more; what it said last may still be so."""
        if source not in self._lost:
            self._lost.add(source)
            for sighting in self._seen.get(source, {}).values():
                if sighting.is_listed:
                    sighting.seen = now

    def forget(self, source: Source) -> None:
        """A source is asked no more."""
        self._seen.pop(source, None)
        self._lost.discard(source)
        self._too_many.discard(source)

    def heard(self, url: str, now: float, node_id: str = "", machine: str = "") -> None:
        """A node has answered, and may have told who it is, and on which machine until that starts anew."""
        self._alive[url] = now
        self._silent.discard(url)
        if node_id:
            self._told[url] = node_id
        if not machine:
            return
        if self._machines.get(url, machine) != machine:
            # It was started anew. What was heard at other addresses before is no word against it.
            for other in [each for each in self._machines if self._alive[each] != now]:
                if self._told.get(other) == node_id:
                    del self._machines[other]
        self._machines[url] = machine

    @staticmethod
    def _miss(sighting: _Sighting, now: float) -> None:
        if sighting.is_listed:
            sighting.is_listed, sighting.seen = False, now

    # -- what follows ----------------------------------------------------------------------------

    def count(self, source: Source) -> int:
        """How many nodes a source lists, whether they are in or not."""
        return sum(sighting.is_listed for sighting in self._seen.get(source, {}).values())

    def review(self, now: float, configured: Configured) -> Review:
        """Decide who is in.

        1. Who is listed, or was a moment ago; by address.
        2. Not: who is described by hand, who is this router itself, and whose word is not taken.
        3. Not yet: who has just left.
        4. Of one id one address: one that is not silent, then one where it proves who it is, then
           the one that is longest in use, then the lowest.
        5. No more than there may be: those that are in stay.
        """
        remarks: dict[str, str] = {}
        horizon = max(self.lost_s, self.dwell_s)  # who left before is as good as new
        self._left = {url: at for url, at in self._left.items() if now - at < horizon}
        candidates = list(self._candidates(now))
        candidates = [each for each in candidates if self._is_another(each, configured, remarks)]
        doubts: dict[str, str] = {}
        chosen = self._one_of_each(candidates, now, doubts)
        remarks |= {
            f"rivals {each.node_id}": doubts[each.url] for each in chosen if each.url in doubts
        }
        chosen.sort(key=lambda each: (each.url not in self._members, address_order(each.url)))
        if len(chosen) > MOST_NODES or self._too_many:
            remarks["too many"] = (
                f"more than {MOST_NODES} nodes were found; the others are not used"
            )
        return self._settle(chosen[:MOST_NODES], now, configured, remarks, doubts)

    def _candidates(self, now: float) -> Iterator[_Candidate]:
        by_url: dict[str, _Candidate] = {}
        for source in Source:
            for url, sighting in list(self._seen.get(source, {}).items()):
                if not self._is_believed(source, url, sighting, now):
                    if not sighting.is_listed:
                        del self._seen[source][url]
                    continue
                node = sighting.node
                found = by_url.setdefault(url, _Candidate(url, source, sighting.since))
                found.since = min(found.since, sighting.since)
                found.node_id = found.node_id or node.id
                found.name = found.name or node.name
                found.is_proved = found.is_proved or node.is_proved
                if node.machine:
                    found.machines[source] = node.machine
        for known in (self._alive, self._told, self._machines):
            for url in known.keys() - by_url.keys():
                del known[url]
        self._silent &= by_url.keys()
        for url, candidate in by_url.items():
            # A node itself knows best who it is; but it is by this id that its certificate is known.
            if not candidate.is_proved:
                candidate.node_id = self._told.get(url) or candidate.node_id
            if url in self._machines:
                candidate.machines[_ITSELF] = self._machines[url]
        yield from by_url.values()

    def _is_believed(self, source: Source, url: str, sighting: _Sighting, now: float) -> bool:
        last = max(sighting.seen, self._alive.get(url, sighting.seen))
        if sighting.is_listed:
            return source not in self._lost or now - last < self.lost_s
        match _PARTING[source]:
            case _Parting.AT_ONCE:
                return False
            case _Parting.AFTER_A_WHILE:
                return now - sighting.seen < self.lost_s
            case _Parting.UNLESS_ALIVE:
                return now - last < self.lost_s

    def _is_another(
        self, each: _Candidate, configured: Configured, remarks: dict[str, str]
    ) -> bool:
        if each.node_id and each.node_id == self.own_id:
            machine = each.machines.get(_ITSELF, "")
            if self.own_machine and machine not in {"", self.own_machine}:
                remarks[f"copy {each.url}"] = (
                    f"{each.url} tells this router's own node id, and is another machine: it is not"
                    " used. Give one of them another fleet.node_id"
                )
            return False
        if each.url in configured.urls or (each.node_id and each.node_id in configured.node_ids):
            return False
        if each.is_proved:
            return each.node_id in self.paired
        if each.source is Source.AVAHI and not self.trusts_all:
            if each.node_id not in self.paired:
                self._note_stranger(each.name or each.url, remarks)
            return False
        return True

    def _note_stranger(self, who: str, remarks: dict[str, str]) -> None:
        """Each once, and so many at the most: a log must not be filled by whoever makes up names."""
        told = self._strangers
        if who in told or len(told) > STRANGERS_TOLD:
            return
        told.add(who)
        remarks[f"stranger {who}"] = (
            f"{who} was found in the network and is not used: it is not paired with this router, and"
            " fleet.trust_found is false"
            if len(told) <= STRANGERS_TOLD
            else "more routers that are not paired with this one are found in the network; no more of"
            " them will be told of"
        )

    def _must_dwell(self, each: _Candidate, now: float) -> bool:
        left = self._left.get(each.url)
        if left is None or each.url in self._members:
            return False
        return now - max(left, each.since) < self.dwell_s

    def _one_of_each(
        self, candidates: Sequence[_Candidate], now: float, doubts: dict[str, str]
    ) -> list[_Candidate]:
        by_id: dict[str, list[_Candidate]] = {}
        for each in candidates:
            by_id.setdefault(each.node_id or each.url, []).append(each)
        chosen = []
        for node_id, same in by_id.items():
            if len(same) > 1:
                self._note_silence(same, now)
            same.sort(
                key=lambda each: (
                    # Among them all the same: else what is said of two would be said again each time.
                    self._must_dwell(each, now),
                    each.url in self._silent,
                    not each.is_proved,
                    self._joined.get(each.url, math.inf),
                    address_order(each.url),
                )
            )
            first, *others = same
            if self._must_dwell(first, now):
                continue
            chosen.append(first)
            rivals = [each.url for each in others if _are_two(first, each)]
            if rivals:
                doubts[first.url] = (
                    f"{first.url} and {', '.join(rivals)} are two machines that tell the same node"
                    f" id, {node_id[:8]}...: only the first is used. Give one of them another"
                    " fleet.node_id"
                )
        return chosen

    def _note_silence(self, same: Sequence[_Candidate], now: float) -> None:
        """One address of several that has not answered for long is passed over, for once."""
        for each in same:
            joined = self._joined.get(each.url)
            if (
                joined is not None
                and now - max(joined, self._alive.get(each.url, joined)) >= self.lost_s
            ):
                self._silent.add(each.url)
        if all(each.url in self._silent for each in same):
            # None answers: they are tried in turn.
            self._silent -= {each.url for each in same if each.url not in self._members}

    def _settle(
        self,
        chosen: Sequence[_Candidate],
        now: float,
        configured: Configured,
        remarks: Mapping[str, str],
        doubts: Mapping[str, str],
    ) -> Review:
        before, self._members = self._members, {}
        taken = set(configured.backend_ids)
        # Who has a name keeps it, before anybody new is given one.
        for each in sorted(chosen, key=lambda each: each.url not in before):
            known = before.get(each.url)
            backend_id = known.backend_id if known is not None else ""
            if not backend_id or backend_id in taken:
                backend_id = next(name for name in _names(each) if name not in taken)
            taken.add(backend_id)
            self._members[each.url] = Member(
                url=each.url,
                backend_id=backend_id,
                name=known.name if known is not None else each.name,
                source=each.source,
                node_id=each.node_id,
                is_proved=each.is_proved,
                doubt=doubts.get(each.url, ""),
            )
        joined = [member for url, member in self._members.items() if url not in before]
        left = [member for url, member in before.items() if url not in self._members]
        self._joined = {url: self._joined.get(url, now) for url in self._members}
        self._left |= {member.url: now for member in left}
        news = tuple(text for key, text in remarks.items() if key not in self._remarked)
        self._remarked = set(remarks)
        return Review(
            members=tuple(self._members.values()),
            joined=tuple(joined),
            left=tuple(left),
            remarks=news,
        )


def _are_two(one: _Candidate, other: _Candidate) -> bool:
    """Whether a source, or they themselves, tell the machines of two addresses apart."""
    return any(
        other.machines.get(source, machine) != machine for source, machine in one.machines.items()
    )


def _names(each: _Candidate) -> Iterator[str]:
    """What a node may be called, the plainest first; a prefix keeps it from being a hardware's name."""
    name = each.name.removesuffix(".local") or host_of(each.url)
    plain = "node-" + (re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "x")
    port = port_of(each.url)
    if port == _USUAL_PORT:
        yield plain[:_ID_MOST]
    yield f"{plain[: _ID_MOST - 6]}-{port}"
    if each.node_id:
        yield f"node-{re.sub(r'[^a-z0-9]', '', each.node_id.lower())[:8]}"
    number = 2
    while True:
        yield f"{plain[: _ID_MOST - 5]}-{number}"
        number += 1
