"""What a run of the crash test asks for, drawn from its seed alone, and the count of it."""

from __future__ import annotations

import collections
import dataclasses
import random
import typing

PLACES = 7  # for servers, each with one at a time; a project may have ten
VOLUMES = 4
AT_ONCE = 8  # things asked for in a round; a kill and what follows it take far longer than they
PORTS = 3  # of a server, at most
COMPUTE = 'nova-compute'
WAITED_FOR = ('attach', 'attach volume')
"""Over these Nova's API waits for nova-compute, a minute if it dies, in one of its two processes.

Of a round in which it dies there is one, so that the other process answers.
"""
COUNTED = ('create', 'stop', 'attach', 'attach volume', 'delete')
"""What a run is measured by; the rest is asked for beside it."""

_WEIGHTS = {
    'stop': 4,
    'start': 3,
    'reboot': 1,
    'attach': 4,
    'detach': 3,
    'attach volume': 4,
    'detach volume': 2,
    'container': 2,
    'delete': 3,
}
_SAME = {
    'stop': 'power',
    'start': 'power',
    'reboot': 'power',
    'attach': 'port',
    'detach': 'port',
    'attach volume': 'volume',
    'detach volume': 'volume',
}
"""Of these a server is asked for one of a sort in a round: two would only refuse each other."""


class Step(typing.NamedTuple):
    """One request: what, of the server in which place, and with which volume."""

    kind: str
    place: int
    volume: int | None = None


@dataclasses.dataclass(frozen=True)
class Round:
    """What is asked for at once, and what dies how many seconds after that and for how long."""

    victim: str
    before: float
    after: float
    steps: tuple[Step, ...]


@dataclasses.dataclass
class _Place:
    """A server as it is once all that it was asked for is done."""

    there: bool = False
    runs: bool = True
    ports: int = 1
    volume: int | None = None
    container: bool = False


class Plan:
    """The rounds of a run.

    It takes every request for granted, so that a seed gives the same rounds whatever becomes of
    them. One that was refused is made good by a later one: of a server that was not stopped the
    next thing to ask is a start, which is refused as well, and then it is as the plan has it.
    """

    def __init__(self, seed: int, victims: typing.Sequence[str]) -> None:
        """Draw everything from `seed`."""
        self._chance = random.Random(seed)
        self._victims = victims
        self._places = [_Place() for _ in range(PLACES)]
        self._asked: dict[int, set[str]] = {}  # of the server in each place, in this round
        self._waits = True  # whether one more may be asked for that is waited for

    def round(self) -> Round:
        """Draw the next round."""
        victim = self._chance.choice(self._victims)
        self._asked = {place: set() for place in range(PLACES)}
        self._waits = True
        steps: list[Step] = []
        while len(steps) < AT_ONCE and (open_to := self._open()):
            steps.append(self._step(open_to))
            self._waits &= victim != COMPUTE or steps[-1].kind not in WAITED_FOR
        before, after = self._chance.uniform(0, 4), self._chance.uniform(0, 2)
        return Round(victim, before, after, tuple(steps))

    def _open(self) -> dict[int, list[str]]:
        """Return what can be asked for now, by the places."""
        return {place: kinds for place in range(PLACES) if (kinds := self._kinds(place))}

    def _step(self, open_to: dict[int, list[str]]) -> Step:
        place = self._chance.choice(list(open_to))
        kinds = open_to[place]
        if kinds != ['create']:
            kinds = self._chance.choices(kinds, [_WEIGHTS[kind] for kind in kinds])
        step = Step(kinds[0], place, self._volume(kinds[0], place))
        self._asked[place].add(_SAME.get(step.kind, step.kind))
        self._take_for_granted(step)
        return step

    def _kinds(self, place: int) -> list[str]:
        """Return what can be asked of the server in a place, or ``create`` where there is none."""
        server, asked = self._places[place], self._asked[place]
        if asked & {'create', 'delete'}:
            return []
        if not server.there:
            return ['create']
        sense = {
            'stop': server.runs,
            'start': not server.runs,
            'reboot': server.runs,
            'attach': server.ports < PORTS and self._waits,
            'detach': server.ports > 1,
            'attach volume': server.volume is None and self._waits and bool(self._free_volumes()),
            'detach volume': server.volume is not None,
            'container': server.runs and not server.container,
            # nova itself leaves a port in Neutron that it makes for a server being deleted
            'delete': 'port' not in asked,
        }
        return [kind for kind in sense if sense[kind] and _SAME.get(kind, kind) not in asked]

    def _free_volumes(self) -> list[int]:
        taken = {server.volume for server in self._places}
        return [number for number in range(VOLUMES) if number not in taken]

    def _volume(self, kind: str, place: int) -> int | None:
        if kind == 'attach volume':
            return self._chance.choice(self._free_volumes())
        return self._places[place].volume if kind == 'detach volume' else None

    def _take_for_granted(self, step: Step) -> None:
        server = self._places[step.place]
        match step.kind:
            case 'create':
                self._places[step.place] = _Place(there=True)
            case 'delete':
                self._places[step.place] = _Place()
            case 'stop' | 'start' | 'reboot':
                server.runs = step.kind != 'stop'
            case 'attach' | 'detach':
                server.ports += 1 if step.kind == 'attach' else -1
            case 'attach volume' | 'detach volume':
                server.volume = step.volume if step.kind == 'attach volume' else None
            case 'container':
                server.container = True


def possible(steps: typing.Iterable[Step], occupied: typing.Container[int]) -> list[Step]:
    """Return of a round's steps what can be asked for.

    What the plan took for granted may have been refused.  Where it has a server that never came
    one is asked for, and one that was not deleted lives on in its place.

    :param occupied: places that have a server
    """
    found, new = [], set()
    for step in steps:
        if (step.place in occupied) is (step.kind != 'create'):
            found.append(step)
        elif step.place not in occupied and step.kind != 'delete' and step.place not in new:
            new.add(step.place)
            found.append(Step('create', step.place))
    return found


class Tally:
    """How often each thing was accepted and refused, and what else happened."""

    def __init__(self) -> None:
        self.accepted: collections.Counter[str] = collections.Counter()
        self.refused: collections.Counter[str] = collections.Counter()
        self.seen: collections.Counter[str] = collections.Counter()

    @property
    def counted(self) -> int:
        """How many accepted requests were of the kinds by which a run is measured."""
        return sum(self.accepted[kind] for kind in COUNTED)

    def lines(self) -> list[str]:
        """Say all of it."""
        beside = {kind: times for kind, times in self.accepted.items() if kind not in COUNTED}
        return [
            f'{self.counted} creates, stops, attaches and deletes were accepted:',
            *(f'{self.accepted[kind]:5} {kind}' for kind in COUNTED),
            f'{sum(beside.values())} others were accepted:',
            *(f'{beside[kind]:5} {kind}' for kind in sorted(beside)),
            f'{self.refused.total()} were refused:',
            *(f'{self.refused[kind]:5} {kind}' for kind in sorted(self.refused)),
            'and there were:',
            *(f'{self.seen[kind]:5} {kind}' for kind in sorted(self.seen)),
        ]
