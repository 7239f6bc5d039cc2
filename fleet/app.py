"""The control plane as one process: the only place that knows the adapters and the engine, and joins them.

`serve` opens the data directory, starts the engine and the API, and ends in order: the API stops taking requests, the
agents close their streams, and what waits to be stored is stored.
"""

from __future__ import annotations

import logging
import os
import random
import secrets as randomness
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import msgspec

from fleet import __version__
from fleet.aio.clock import RealClock
from fleet.aio.supervise import Policy, Supervisor
from fleet.api import auth
from fleet.api.server import Listening, Server
from fleet.engine import agents, configuration, control, session
from fleet.engine.agent import AgentSettings
from fleet.engine.assignments import Assignments
from fleet.engine.conductor import Conductor
from fleet.engine.contents import Contents
from fleet.engine.eventlog import EventLog
from fleet.engine.planner import Planner
from fleet.engine.ports import Connector
from fleet.engine.service import Parts, Service
from fleet.engine.sources import Sources, SourcesSettings
from fleet.errors import FleetError, StoreError
from fleet.git import transport
from fleet.git.failures import display
from fleet.git.mirror import GitMirrors
from fleet.kube import bounds
from fleet.kube.connect import KubeConnector
from fleet.model.events import Event
from fleet.model.fleetfile import Fleet, GitSource
from fleet.model.rollout import WaveState
from fleet.render import renderer
from fleet.secrets.file import FileSecrets
from fleet.settings import EngineSettings, Settings
from fleet.store import Store, open_store
from fleet.telemetry import traces
from fleet.telemetry.follow import TraceFollower
from fleet.telemetry.metrics import LagSampler, Metrics

_log = logging.getLogger(__name__)

_ENDED_WAVES = (WaveState.PASSED, WaveState.SKIPPED, WaveState.FAILED)

_OWN_CREDENTIALS = "the credentials of the repository of fleet.yaml"
"""No name that fleet.yaml could give to a secret."""


class ServeOptions(msgspec.Struct, frozen=True):
    """What the command line says."""

    fleet: str
    """URL or absolute path of the repository that fleet.yaml lives in."""
    data_dir: Path
    ref: str = "main"
    path: str = "."
    """Folder of fleet.yaml within the repository."""
    host: str = "127.0.0.1"
    port: int = 8080
    database: str | None = None
    secret: Path | None = None
    """File with the credentials of the repository, for a private one (format: `fleet.git.credentials`)."""


async def serve(
    options: ServeOptions,
    settings: Settings,
    listening: Callable[[Listening, Path], None],
    stopping: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Runs the control plane until SIGTERM or SIGINT; `listening` is told once requests are answered.

    `stopping` is called when a signal came, with the seconds that all of the end may take. The caller enforces them,
    since a thread that a disk holds cannot be ended from within; what was decided is stored by then in any case.
    Raises Locked, StoreError, InvalidInput or Unavailable when it cannot start.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            await open_store(options.data_dir, settings.store, database=options.database)
        )
        token = auth.token_of(options.data_dir)
        plane = _Plane(options, settings, store)
        server = Server(plane.service, token, plane.metrics.render, settings.api, __version__)
        address = await server.start(options.host, options.port)
        api = await stack.enter_async_context(AsyncExitStack())
        api.push_async_callback(server.aclose)
        listening(address, options.data_dir / "token")

        async def told() -> None:
            stopping(settings.engine.stop_timeout)
            # While the engine still runs: what is asked already is answered, and nothing more is taken.
            await api.aclose()

        await until_told(plane.run, told)
        # What the agents said last is stored after they have ended, before the store closes.
        with anyio.CancelScope(shield=True), anyio.move_on_after(settings.engine.stop_timeout):
            await plane.finish()


def reach(settings: Settings, fleet: Fleet) -> tuple[Connector, FileSecrets]:
    """What reaches the clusters of a fleet.yaml outside of a control plane: clients, and the secrets that they need."""
    secrets = FileSecrets()
    secrets.configure(fleet)
    return KubeConnector(bounds.of(settings.kube)), secrets


async def until_told(run: Callable[[], Awaitable[None]], told: Callable[[], Awaitable[None]]) -> None:
    """Runs until a signal asks for the end, or until `run` fails; `told` comes between the signal and the end of `run`.

    Signals are handled no more once `told` is called.
    """
    async with anyio.create_task_group() as group:

        async def work() -> None:
            await run()
            group.cancel_scope.cancel()

        group.start_soon(work, name="control plane")
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for received in signals:
                _log.info("%s: stopping", received.name)
                break
        await told()
        group.cancel_scope.cancel()


class _Plane:
    """All parts of one control plane, joined."""

    def __init__(self, options: ServeOptions, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._clock = RealClock()
        self._follower: TraceFollower | None = None
        self._exporter: traces.OtlpExporter | None = None
        self.metrics = Metrics()
        self.metrics.build.labels(__version__).set(1)
        self._log = EventLog(store)
        self._contents = Contents(store)
        secrets = FileSecrets(single={_OWN_CREDENTIALS: options.secret} if options.secret is not None else {})
        assignments = Assignments()
        self._conductor = Conductor(store, assignments, self._decided, clock=self._clock)
        self._agents = agents.Agents(
            agents.Parts(
                connector=KubeConnector(bounds.of(settings.kube), options.data_dir),
                secrets=secrets,
                store=store,
                settings=AgentSettings(reconnect_cap=min(AgentSettings().reconnect_cap, settings.engine.unknown_after)),
                report=self._conductor.report,
                emit=self._log.emit,
                assignments=assignments.of,
            )
        )
        assignments.subscribe(self._agents.assigned)
        own = GitSource(
            control.OWN, options.fleet, ref=options.ref, secret_ref=_OWN_CREDENTIALS if options.secret else None
        )
        sources = Sources(
            GitMirrors(options.data_dir, transport.of(settings.git)),
            secrets,
            self._log.emit,
            lambda name: self._control.changed(name),
            settings=SourcesSettings(at_once=settings.git.concurrent_fetches),
            clock=self._clock,
            display=display,
            observe=self.metrics.source_fetch_seconds.observe,
        )
        root = "" if options.path in (".", "") else options.path.strip("/")
        config = configuration.Configuration(
            store,
            _OwnRepository(sources),
            f"{root}/fleet.yaml" if root else "fleet.yaml",
            self._log.emit,
            self._clock.wall,
        )
        self._planner = Planner(
            renderer.Renderer(renderer.of(settings.render)), self._contents, self._clock.wall, root=root
        )
        self._control = control.Control(
            control.Parts(
                own=own,
                configuration=config,
                sources=sources,
                planner=self._planner,
                contents=self._contents,
                conductor=self._conductor,
                agents=self._agents,
                log=self._log,
                secrets=secrets,
                shared=self._shared,
                clock=self._clock,
                rendered=self.metrics.render_seconds.observe,
            )
        )
        self._configuration = config
        self.service = Service(
            Parts(
                configuration=config,
                sources=sources,
                agents=self._agents,
                conductor=self._conductor,
                history=store,
                log=self._log,
                now=self._clock.wall,
                version=__version__,
                problem=self._control.problem,
            )
        )
        self._look_at_scrapes()

    async def run(self) -> None:
        """Until cancelled."""
        lag = LagSampler(self._settings.telemetry, self.metrics.loop_lag_seconds.observe)
        async with Supervisor("plane", clock=self._clock) as supervisor:
            supervisor.start("engine", self._control.run)
            supervisor.start("traces", self._trace, Policy.RESTARTED)
            supervisor.start("loop lag", lag.run)
            supervisor.start("collection", self._collect, Policy.RESTARTED)

    async def finish(self) -> None:
        """What waits is stored, and the last spans are sent."""
        try:
            await self._log.flush()
        except StoreError as error:
            _log.error("the last events could not be stored: %s", error)
        if self._follower is not None and self._exporter is not None:
            await self._follower.finish()
            await self._exporter.aclose()

    def _shared(self, fleet: Fleet) -> session.Shared:
        metrics = self.metrics
        return session.Shared(
            fleet=fleet.name,
            fingerprint_key=self._store.fingerprint_key,
            contents=self._contents,
            keeper=self._store,
            keep=self._log.keep,
            counters=metrics.watch_events,
            metrics=_DriftTimes(metrics),
            applied=self._applied,
            clock=self._clock,
            jitter=random.random,
            new_id=lambda: randomness.token_hex(8),
            settings=_session_settings(self._settings.engine),
            claimed=self._planner.claimant,
        )

    def _decided(self, events: Sequence[Event]) -> None:
        """Of a decision that is stored."""
        self._log.stored(events)
        for event in events:
            if event.type == "wave.state" and event.data["to"] in _ENDED_WAVES:
                self._time_wave(event)

    def _time_wave(self, event: Event) -> None:
        state = self._conductor.state(event.bundle or "")
        for rollout in (state.active, state.previous) if state is not None else ():
            for run in rollout.waves if rollout is not None and rollout.id == event.rollout else ():
                if run.plan.name == event.wave and run.started_at is not None and run.ended_at is not None:
                    self.metrics.wave_seconds.observe(run.ended_at - run.started_at)

    def _applied(self, result: str, seconds: float) -> None:
        self.metrics.apply_seconds.observe(seconds)
        self.metrics.applies[result].inc()

    async def _trace(self) -> None:
        """Follows the event log once fleet.yaml, which may name the collector, is in force."""
        while (in_force := self._configuration.in_force) is None:
            await self._log.wait_beyond(await self._store.last_seq())
        fleet = in_force.fleet
        url = traces.endpoint(os.environ, fleet.otlp_endpoint)
        if url is None:
            return
        settings = self._settings.telemetry
        self._exporter = traces.OtlpExporter.open(url, settings, fleet=fleet.name, version=__version__)
        self._follower = TraceFollower(self._store, self._exporter, settings, fleet=fleet.name)
        await self._follower.run(self._log.wait_beyond)

    async def _collect(self) -> None:
        """Keeps the store within its bounds."""
        while True:
            await anyio.sleep(self._settings.store.collect_interval)
            try:
                await self._store.collect()
            except FleetError as error:
                _log.warning("the store was not tidied: %s", error)

    def _look_at_scrapes(self) -> None:
        """Values that exist anyway are read when Prometheus asks."""
        looked, views = self.metrics.looked, self._agents.views
        looked.watch_streams = lambda: float(sum(view.watches for view in views()))
        looked.managed_objects = lambda: float(sum(view.objects for view in views()))
        looked.observation_ages = lambda: {
            (view.name,): max(0.0, self._clock.wall() - view.observed_at)
            for view in views()
            if view.observed_at is not None
        }
        looked.rollout_states = self._rollout_states
        looked.queue_depths = lambda: {("conductor",): float(self._conductor.waiting)}

    def _rollout_states(self) -> dict[tuple[str, ...], float]:
        in_force = self._configuration.in_force
        found: dict[tuple[str, ...], float] = {}
        for bundle in in_force.fleet.bundles if in_force is not None else ():
            state = self._conductor.state(bundle.name)
            for rollout in (state.active, state.waiting) if state is not None else ():
                if rollout is not None:
                    found[bundle.name, rollout.state.value] = found.get((bundle.name, rollout.state.value), 0.0) + 1
        return found


def _session_settings(engine: EngineSettings) -> session.SessionSettings:
    """A silent cluster is asked for a sign of life in time before it counts as Unknown."""
    usual = session.SessionSettings()
    lost_after = min(usual.lost_after, engine.unknown_after)
    return msgspec.structs.replace(
        usual,
        writes=engine.concurrent_applies,
        workers=msgspec.structs.replace(
            usual.workers, queue=engine.queue, retry_base=engine.retry_base, retry_cap=engine.retry_cap
        ),
        lost_after=lost_after,
        probe=min(usual.probe, lost_after / 2),
        probe_deadline=min(usual.probe_deadline, lost_after / 4),
        tick=min(usual.tick, lost_after / 8),
    )


class _DriftTimes:
    """Drift durations into histograms."""

    def __init__(self, metrics: Metrics) -> None:
        self.detected: Callable[[float], None] = metrics.drift_detect_seconds.observe
        self.healed: Callable[[float], None] = metrics.drift_heal_seconds.observe


class _OwnRepository:
    """The repository of fleet.yaml, whose mirror exists once it has been polled."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def read(self, sha: str, path: str, limit: int) -> bytes:
        return await self._sources.mirror(control.OWN).read(sha, path, limit)
