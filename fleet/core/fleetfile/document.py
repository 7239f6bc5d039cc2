"""What a user can write in fleet.yaml: every key with its kind, bounds, default and meaning (rollouts.md section 2).

A key in `later` is part of the design and not in force: it is refused as "not supported yet", never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

from fleet.core.fleetfile import syntax
from fleet.core.fleetfile.shapes import (
    Anything,
    Choice,
    Concurrency,
    Duration,
    Flag,
    Integer,
    Key,
    ListOf,
    MapOf,
    Record,
    Text,
)

DAY = 86400.0
MAX_CLUSTERS = 5000

NAME = Text("a name of lower-case letters, digits and inner `-`, at most 63 characters", syntax.NAME, max=63)
LABEL_KEY = Text("a label key such as `env` or `example.com/tier`", syntax.LABEL_KEY, max=317)
LABEL_VALUE = Text(
    "a label value: letters, digits and inner `-`, `_`, `.`, at most 63 characters", syntax.LABEL_VALUE, max=63
)
PRINTABLE = Text("text (not empty, without control characters)", syntax.PRINTABLE, max=1024)
PATH = Text("a path inside the repository, such as apps/shop", syntax.RELATIVE_PATH, 1024, syntax.relative_path)
OVERLAY = Text("a path inside the repository, such as clusters/qa", syntax.RELATIVE_PATH, 1024, syntax.overlay_path)
SECRET = Text("the name of a secret: letters, digits and inner `-`, `_`, `.`", syntax.FILE_NAME)
NAMED_GATES = ListOf(NAME, max=20, unique=True)


def _values_fit_operator(requirement: Mapping[str, object]) -> tuple[str, str] | None:
    needs = requirement.get("operator") in ("In", "NotIn")
    has = bool(requirement.get("values"))
    if needs and not has:
        return "values", f"operator {requirement['operator']} needs `values`"
    if not needs and has:
        return "values", f"operator {requirement['operator']} takes no `values`"
    return None


REQUIREMENT = Record(
    "requirement",
    "One condition on a label.",
    (
        Key("key", LABEL_KEY, "The label.", required=True),
        Key(
            "operator",
            Choice(("In", "NotIn", "Exists", "DoesNotExist")),
            "How the label's value relates to `values`; NotIn also holds for a cluster without the label.",
            required=True,
        ),
        Key("values", ListOf(LABEL_VALUE, max=100), "For In and NotIn."),
    ),
    check=_values_fit_operator,
)

SELECTOR = Record(
    "selector",
    "Which clusters are meant; all parts must hold, `{}` means every cluster.",
    (
        Key("matchLabels", MapOf(LABEL_KEY, LABEL_VALUE, max=50), "Labels with the values they must have."),
        Key("matchExpressions", ListOf(REQUIREMENT, max=50), "Conditions on labels."),
        Key("matchNames", ListOf(NAME, max=MAX_CLUSTERS, unique=True), "Names of clusters."),
    ),
)

STABLE_FOR = Duration(0, 7 * DAY)
PROGRESS_DEADLINE = Duration(1, 7 * DAY)
HEALTH = Record(
    "health",
    "When a cluster counts as healthy after an apply.",
    (
        Key("stableFor", STABLE_FOR, "How long all objects must be healthy without a break.", default="60s"),
        Key(
            "progressDeadline", PROGRESS_DEADLINE, "How long after the apply they may take to get there.", default="10m"
        ),
    ),
)
WAVE_HEALTH = Record(
    "waveHealth",
    "This wave's own health rules; what is absent is as the strategy says.",
    (
        Key("stableFor", STABLE_FOR, "How long all objects must be healthy without a break."),
        Key("progressDeadline", PROGRESS_DEADLINE, "How long after the apply they may take to get there."),
    ),
)

GIT = Record(
    "git",
    "A Git repository.",
    (
        Key(
            "url",
            Text("the URL of a Git repository", syntax.GIT_URL, 2048, syntax.git_url),
            "https, ssh (also user@host:path), file or an absolute local path, without credentials; default: the "
            "repository that fleet.yaml lives in.",
        ),
        Key(
            "ref",
            Text("the name of a branch or a tag, or a full commit SHA", syntax.REF, 255, syntax.ref),
            "Branch, tag or full commit SHA; it is resolved to a full SHA once per release.",
            default="main",
        ),
        Key("interval", Duration(1, DAY), "How often the repository is asked for news.", default="60s"),
        Key("secretRef", SECRET, "Name of the secret with the credentials."),
    ),
    later=("verify",),
)
SOURCE = Record(
    "source",
    "A repository that bundles take their manifests from.",
    (
        Key("name", NAME, "What bundles call it.", required=True),
        Key("git", GIT, "Where it is; default: the repository that fleet.yaml lives in."),
    ),
    later=("debounce",),
)

KUBECONFIG = Record(
    "kubeconfig",
    "Access by a kubeconfig file on the machine of the control plane.",
    (
        Key("path", PRINTABLE, "The file; default: KUBECONFIG or ~/.kube/config."),
        Key("context", PRINTABLE, "The context in it; default: its current context."),
    ),
)
CLUSTER = Record(
    "cluster",
    "A member cluster, with exactly one way to reach it.",
    (
        Key("name", NAME, "Unique in the fleet.", required=True),
        Key("labels", MapOf(LABEL_KEY, LABEL_VALUE, max=50), "What selectors and templates see.", default={}),
        Key("kubeconfig", KUBECONFIG, "Reach it by a kubeconfig file."),
        Key("secretRef", SECRET, "Reach it by the kubeconfig in the secret of this name."),
        Key("inCluster", Flag(only=True), "It is the cluster that the control plane runs in."),
        Key("values", Anything(), "Free values for templates: `{{ cluster.values.x }}`.", default={}),
        Key("paused", Flag(), "Nothing is applied to it while true.", default=False),
    ),
    later=("tunnel", "pin"),
    one_of=("kubeconfig", "secretRef", "inCluster"),
)

DRIFT = Record(
    "drift",
    "What happens when an object in a cluster differs from what was released.",
    (
        Key(
            "mode",
            Choice(("correct", "detect", "off")),
            "correct: reported and undone; detect: reported; off: neither.",
            default="correct",
        ),
    ),
    later=("scope", "ignore", "maxCorrections"),
)
PRUNE = Record(
    "prune",
    "Whether objects that left the bundle are deleted from the clusters.",
    (
        Key("enabled", Flag(), "Delete them.", default=False),
        Key("maxObjects", Integer(1, 100_000), "More than this at once waits for an approval.", default=10),
    ),
)
BUNDLE_SOURCE = Record(
    "bundleSource",
    "A folder of a source.",
    (
        Key("name", NAME, "One of `sources`; default: the repository that fleet.yaml lives in."),
        Key("path", PATH, "The folder: YAML files or a Kustomize root.", required=True),
        Key("overlay", OVERLAY, "A second folder of the source, for this cluster: `clusters/{{ cluster.name }}`."),
    ),
)


def _overlay_goes_with_path(bundle: Mapping[str, object]) -> tuple[str, str] | None:
    if "overlay" in bundle and "path" not in bundle:
        return "overlay", "goes with `path`; with `sources`, each source has its own `overlay`"
    return None


BUNDLE = Record(
    "bundle",
    "What is deployed together, and where.",
    (
        Key("name", NAME, "Unique in the fleet.", required=True),
        Key("path", PATH, "A folder of the repository that fleet.yaml lives in: YAML files or a Kustomize root."),
        Key("sources", ListOf(BUNDLE_SOURCE, min=1, max=20), "Folders of several sources, pinned together."),
        Key("overlay", OVERLAY, "A second folder beside `path`, for this cluster: `clusters/{{ cluster.name }}`."),
        Key("clusterSelector", SELECTOR, "Where it goes; default: what the waves of the strategy select."),
        Key("strategy", NAME, "One of `strategies`.", required=True),
        Key("namespace", NAME, "For namespaced objects that name none.", default="default"),
        Key("createNamespace", Flag(), "Create that namespace where it is missing.", default=True),
        Key("templates", Flag(), "Expand `{{ cluster.… }}` in the bundle's files for each cluster.", default=False),
        Key("drift", DRIFT, "What happens on drift.", default={}),
        Key("prune", PRUNE, "What happens to objects that left the bundle.", default={}),
        Key("suspend", Flag(), "Start no rollout and repair nothing while true.", default=False),
        Key(
            "deletion",
            Choice(("orphan", "delete")),
            "What happens to its objects when the bundle leaves fleet.yaml, or a cluster is no longer selected.",
            default="orphan",
        ),
        Key(
            "adopt",
            Choice(("never", "ifUnmanaged", "always")),
            "Whether objects that exist already are taken over; those of another tool only with always.",
            default="ifUnmanaged",
        ),
    ),
    later=("dependsOn", "recreate"),
    one_of=("path", "sources"),
    check=_overlay_goes_with_path,
)


def _enough_approvers(gate: Mapping[str, object]) -> tuple[str, str] | None:
    approvers, count = gate.get("approvers"), gate.get("count")
    if not isinstance(approvers, tuple) or not isinstance(count, int) or not approvers:
        return None
    if count > len(approvers) and not any(str(approver).startswith("group:") for approver in approvers):
        return "count", f"is {count}, and only {len(approvers)} could approve"
    return None


GATE = Record(
    "gate",
    "A condition for starting a wave.",
    (
        Key("name", NAME, "What waves call it.", required=True),
        Key("type", Choice(("approval",), later=("metric", "webhook", "job")), "Who answers it.", required=True),
        Key(
            "approvers",
            ListOf(
                Text("`user:NAME`, `group:NAME` or the name of a user", syntax.APPROVER),
                max=100,
                unique=True,
            ),
            "Who may approve; default: anyone who is signed in.",
            default=[],
        ),
        Key("count", Integer(1, 100), "How many must approve.", default=1),
        Key("timeout", Duration(1, 90 * DAY), "The rollout expires when nobody answered by then.", default="24h"),
        Key("allowAuthor", Flag(), "Whether the author of the commit may approve.", default=False),
    ),
    later=(
        "url",
        "secretRef",
        "interval",
        "provider",
        "query",
        "successCondition",
        "failureCondition",
        "failureLimit",
        "inconclusiveLimit",
        "consecutiveErrorLimit",
        "initialDelay",
    ),
    check=_enough_approvers,
)

WAVE_GATES = Record(
    "waveGates",
    "Gates of a wave.",
    (Key("before", NAMED_GATES, "What must hold before the wave starts; names of `gates`.", default=[]),),
    later=("during", "after"),
)
WAVE = Record(
    "wave",
    "A group of clusters that a release reaches together.",
    (
        Key("name", NAME, "Unique in the strategy.", required=True),
        Key("clusterSelector", SELECTOR, "Its clusters; no cluster may be in two waves.", required=True),
        Key(
            "maxConcurrency",
            Concurrency(max=MAX_CLUSTERS),
            "How many clusters are changed at once: a number, or a percentage of the wave, rounded down, at least 1.",
            default=1,
        ),
        Key(
            "bake",
            Duration(0, 90 * DAY),
            "How long the wave must be seen healthy before the next starts.",
            default="0s",
        ),
        Key("protected", Flag(), "Once started, a newer commit waits for its end.", default=False),
        Key("gates", WAVE_GATES, "Its gates.", default={}),
        Key("health", WAVE_HEALTH, "Its own health rules; default: the strategy's.", default={}),
    ),
    later=("sortingLabelKey", "batches", "batchBake", "minSucceeded", "allowEmpty", "failure", "unreachable"),
)
STRATEGY = Record(
    "strategy",
    "An ordered list of waves.",
    (
        Key("name", NAME, "What bundles call it.", required=True),
        Key("health", HEALTH, "Health rules of all waves.", default={}),
        Key("waves", ListOf(WAVE, min=1, max=100), "In this order.", required=True),
    ),
    later=(
        "onNewRevision",
        "maxSupersedes",
        "unreachable",
        "failure",
        "rollback",
        "extends",
        "maxBake",
        "blockedTimeout",
    ),
)

SECRETS = Record(
    "secrets",
    "Where every `secretRef` is looked up, at the time of use.",
    (
        Key(
            "provider",
            Choice(("file",), later=("env", "kubernetes", "vault")),
            "file: a folder with one file per secret, as Kubernetes mounts Secrets.",
            default="file",
        ),
        Key(
            "file",
            Record("fileSecrets", "A folder of secrets.", (Key("path", PRINTABLE, "The folder.", required=True),)),
            "For provider file.",
        ),
    ),
    later=("vault", "sops", "env", "kubernetes"),
)
TELEMETRY = Record(
    "telemetry",
    "Where traces go.",
    (
        Key(
            "otlp",
            Record(
                "otlp",
                "An OpenTelemetry collector.",
                (
                    Key(
                        "endpoint",
                        Text("a http or https URL", syntax.ENDPOINT, 2048, syntax.endpoint),
                        "OTLP over HTTP, such as http://otel-collector:4318.",
                        required=True,
                    ),
                ),
            ),
            "Without it nothing is exported, unless the OTEL_* variables say otherwise.",
        ),
    ),
)

ROOT = Record(
    "fleet",
    "Clusters, what is deployed to them, and in which order.",
    (
        Key("apiVersion", Choice(("fleet/v1",)), "The version of this format.", required=True),
        Key("kind", Choice(("Fleet",)), "The kind of this document.", required=True),
        Key(
            "metadata",
            Record(
                "metadata",
                "The fleet itself.",
                (
                    Key(
                        "name",
                        NAME,
                        "The fleet's name; `fleet-NAME` is its field manager in every cluster.",
                        required=True,
                    ),
                ),
            ),
            "The fleet itself.",
            required=True,
        ),
        Key("environmentLabel", LABEL_KEY, "The cluster label that defines an environment.", default="env"),
        Key("secrets", SECRETS, "Where secrets are."),
        Key("telemetry", TELEMETRY, "Where traces go."),
        Key("sources", ListOf(SOURCE, max=200), "Repositories beside the one that fleet.yaml lives in.", default=[]),
        Key("clusters", ListOf(CLUSTER, max=MAX_CLUSTERS), "The member clusters.", default=[]),
        Key("bundles", ListOf(BUNDLE, max=1000), "What is deployed.", default=[]),
        Key("gates", ListOf(GATE, max=200), "Conditions that waves refer to.", default=[]),
        Key("strategies", ListOf(STRATEGY, max=200), "Orders of waves that bundles refer to.", default=[]),
    ),
    later=("budgets", "windows", "blockedTimeout"),
)
