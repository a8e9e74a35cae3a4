"""Options that several commands have."""

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="The service, as NAME or NAMESPACE/NAME.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until the rollout is ready or has failed.")
]
TimeoutSeconds = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait in all.")]
RequestId = Annotated[
    str,
    typer.Option(
        help="Repeating an id repeats no rollout. Default: the job's on GitHub and GitLab, else a"
        " new one.",
    ),
]
ValidateOnly = Annotated[bool, typer.Option(help="Check the request and write nothing.")]
Force = Annotated[bool, typer.Option(help="Also where another client created the service.")]
AllowMissing = Annotated[bool, typer.Option(help="No error if it does not exist.")]
Etag = Annotated[str, typer.Option(help="Only if this is still the etag.")]
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
    int | None, typer.Option(help="The number of replicas: --min-replicas and --max-replicas.")
]
MinReplicas = Annotated[int | None, typer.Option(help="The fewest replicas.")]
MaxReplicas = Annotated[int | None, typer.Option(help="The most replicas.")]
Target = Annotated[int | None, typer.Option(help="The autoscaler's target for --metric.")]
Metric = Annotated[str, typer.Option(help="cpu, memory, concurrency or rps.")]
ServiceAccount = Annotated[str, typer.Option(help="The ServiceAccount of the pods.")]
Mode = Annotated[str, typer.Option(help="Standard or Knative.")]
RequestTimeout = Annotated[
    int | None, typer.Option(help="Seconds that one inference request may take.")
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label. Repeatable.")
]
Annotations = Annotated[
    list[str] | None,
    typer.Option("--annotation", metavar="NAME=VALUE", help="An annotation. Repeatable."),
]
Format = Annotated[str, typer.Option("--format", help="The model's format, such as sklearn.")]
FormatVersion = Annotated[str, typer.Option(help="The format's version.")]
StorageUri = Annotated[str, typer.Option(help="Where the model's files are.")]
Image = Annotated[str, typer.Option(help="A container image that serves the model itself.")]
Description = Annotated[str, typer.Option(help="A description for people.")]
