"""`fcos serve`."""

from ipaddress import ip_address
from pathlib import Path

import click

from pipeline.commands import options

LOOPBACK = "127.0.0.1"


def _address(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if value == "localhost":
        return LOOPBACK
    try:
        return str(ip_address(value))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not an IP address") from None


@click.command()
@click.option(
    "--weights", type=click.Path(path_type=Path), help="A detector's file, such as models/detector.safetensors."
)
@click.option("--alias", metavar="NAME", help="Alias of the registered model fcos-DATASET.  [default: champion]")
@click.option("--model", metavar="URI", help="Another registered model, such as models:/NAME/VERSION.")
@click.option("--port", type=click.IntRange(1, 65535), default=5001, show_default=True)
@click.option(
    "--host",
    callback=_address,
    default=LOOPBACK,
    show_default=True,
    help="Address to listen on. 0.0.0.0 lets other machines use the detector, without a password.",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(0, min_open=True),
    default=32,
    show_default=True,
    help="Larger requests are refused; base64 makes an image a third larger.",
)
@options.max_megapixels(50)
@click.option("--max-images", type=click.IntRange(1), default=16, show_default=True, help="Most images of a request.")
@options.device
def serve(
    weights: Path | None,
    alias: str | None,
    model: str | None,
    port: int,
    host: str,
    max_megabytes: float,
    max_megapixels: float,
    max_images: int,
    device: str,
) -> None:
    """Serve a detector on 127.0.0.1, until Ctrl-C: images to /invocations, or on the page.

    The detector is the one that `fcos register` gave the alias, with its operating point and its post-processing, or
    that of --weights. docs/serving.md shows requests.
    """
    from pipeline import params
    from pipeline.integrations import serving
    from pipeline.integrations.servers import LOOPBACK_ADDRESSES

    if sum(value is not None for value in (weights, alias, model)) > 1:
        raise click.UsageError("--weights, --alias and --model exclude each other")
    if not weights and not model:
        model = f"models:/fcos-{params.load().dataset}@{alias or 'champion'}"
    if host not in LOOPBACK_ADDRESSES:
        click.echo(
            f"fcos: warning: everyone who reaches {host} can use the detector: it has no password and no encryption",
            err=True,
        )
    limits = serving.Limits(max_megabytes, max_megapixels, max_images)
    with serving.serve(weights=weights, model=model, device=device, limits=limits, host=host, port=port) as server:
        click.echo(f"Detector: {server.address}  (Ctrl-C stops it)")
        server.wait()
