"""Options that several commands have."""

from typing import Annotated, Any

import typer

# The largest numbers of the API's fields: an int32, an int64, a Duration in seconds.
_INT32 = 2**31 - 1
INT64 = 2**63 - 1
_DURATION = 315_576_000_000


def number(text: str, most: int = _INT32) -> Any:
    """Return an option with a number from 0 that a field of the API can hold."""

    def checked(value: int | None) -> int | None:
        if value is not None and not 0 <= value <= most:
            raise typer.BadParameter(f"must be from 0 to {most}, got {str(value)[:64]}")
        return value

    return typer.Option(metavar="NUMBER", callback=checked, help=text)


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The service, as NAME or NAMESPACE/NAME.")
]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until the rollout is ready or has failed.")
]
RollbackOnFailure = Annotated[
    bool,
    typer.Option(
        "--rollback-on-failure",
        help="If the rollout fails, go back to the last revision that was ready, and exit with 81."
        " Undecided at --timeout it goes on: set --ready-timeout below it.",
    ),
]
OnlyRollout = Annotated[
    str,
    typer.Option(
        "--rollout-id", metavar="TEXT", help="Only while this is the service's newest rollout."
    ),
]
TimeoutSeconds = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0, help="The time in all.")
]
ReadySeconds = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0,
        help="The time in all. Default: 120 s more than the rollout has until it has failed, which"
        " is its ready_timeout, else 600 s.",
    ),
]
RequestId = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        help="Repeating an id repeats no rollout. Default: the job's on GitHub and GitLab, else a"
        " new one.",
    ),
]
ValidateOnly = Annotated[
    bool, typer.Option("--validate-only", help="Check the request and write nothing.")
]
Force = Annotated[bool, typer.Option("--force", help="Also if another client created it.")]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="No error if it does not exist.")
]
Etag = Annotated[str, typer.Option(metavar="TEXT", help="Only if this is still the etag.")]
Env = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="A variable. Repeatable.")
]
SecretEnv = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=SECRET:KEY", help="A variable from a Secret. Repeatable."),
]
Requests = Annotated[
    list[str] | None,
    typer.Option("--request", metavar="NAME=AMOUNT", help="As cpu=500m. Repeatable."),
]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=AMOUNT", help="As memory=4Gi. Repeatable."),
]
Replicas = Annotated[
    int | None, number("The number of replicas: --min-replicas and --max-replicas.")
]
MinReplicas = Annotated[int | None, number("The fewest replicas.")]
MaxReplicas = Annotated[int | None, number("The most replicas.")]
Target = Annotated[int | None, number("The autoscaler's target for --metric.")]
Metric = Annotated[str, typer.Option(metavar="TEXT", help="cpu, memory, concurrency or rps.")]
ServiceAccount = Annotated[
    str, typer.Option(metavar="TEXT", help="The ServiceAccount of the pods.")
]
Mode = Annotated[str, typer.Option(metavar="TEXT", help="Standard or Knative.")]
RequestTimeout = Annotated[
    int | None, number("Seconds that one inference request may take.", _DURATION)
]
ReadyTimeout = Annotated[int | None, number("Seconds until a rollout must be ready.", _DURATION)]
RolloutStrategy = Annotated[
    str,
    typer.Option(
        metavar="TEXT", help="rolling, or recreate: the older pods stop before new ones start."
    ),
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label. Repeatable.")
]
Annotations = Annotated[
    list[str] | None,
    typer.Option("--annotation", metavar="NAME=VALUE", help="An annotation. Repeatable."),
]
Format = Annotated[
    str, typer.Option("--format", metavar="TEXT", help="The model's format, such as sklearn.")
]
FormatVersion = Annotated[str, typer.Option(metavar="TEXT", help="The format's version.")]
StorageUri = Annotated[str, typer.Option(metavar="TEXT", help="Where the model's files are.")]
Image = Annotated[
    str, typer.Option(metavar="TEXT", help="A container image that serves the model itself.")
]
Description = Annotated[str, typer.Option(metavar="TEXT", help="A description for people.")]
NewDescription = Annotated[
    str | None,
    typer.Option("--description", metavar="TEXT", help="A description; an empty one removes it."),
]
NewLabels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=VALUE", help="Replaces all labels. Repeatable."),
]
ResourceFile = Annotated[
    str,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="The resource as YAML or JSON, as `get -o yaml` prints it; - is standard input.",
    ),
]
