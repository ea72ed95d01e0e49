"""``cifarctl registry ...``."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarctl.cli.command import Run, command

if TYPE_CHECKING:
    from cifarctl.registry import Registry

Version = Annotated[str, typer.Argument(help="A version number, an alias, or latest.")]
Alias = Annotated[str, typer.Option(help="The alias to move.")]
Why = Annotated[str, typer.Option(help="The reason to record in the history.")]
DEFAULT_WHY = "by hand"


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="registry",
        help="The model registry: versions, aliases, history.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    command(group, "list")(list_versions)
    for function in (show, compare, promote, rollback, history, gc, verify):
        command(group)(function)
    command(group, "remove-alias")(remove_alias)
    command(group, "import")(import_model)
    app.add_typer(group)


def _open(run: Run) -> "Registry":
    from cifarctl.registry import Registry

    return Registry(run.settings().registry)


def list_versions(run: Run) -> None:
    """List all versions."""
    from cifarctl.errors import RegistryError
    from cifarctl.ui.tables import versions_table

    registry = _open(run)
    aliases = registry.aliases()
    manifests = []
    for number in registry.numbers():
        try:
            manifests.append(registry.manifest(number))
        except RegistryError as error:  # a damaged version must not hide the others
            run.output.warn(f"not listed: {error}")
    for fault in registry.faults():
        run.output.warn(f"note: {fault}")
    document = [
        {
            "version": manifest.version,
            "created": manifest.created,
            "model": manifest.model,
            "parent": manifest.parent,
            "metrics": manifest.metrics,
            "aliases": sorted(name for name, alias in aliases.items() if alias.version == manifest.version),
        }
        for manifest in manifests
    ]
    run.output.result(document, versions_table(document, registry.dir))


def show(run: Run, version: Version) -> None:
    """Show the manifest of a version and the location of its plots."""
    from cifarctl.ui.tables import manifest_table

    registry = _open(run)
    manifest = registry.manifest(registry.resolve(version))
    document = manifest.model_dump(mode="json")
    folder, plots = registry.path(manifest.version), registry.plots(manifest.version)
    run.output.result(document | {"plots": list(map(str, plots))}, manifest_table(document, folder, plots))


def compare(run: Run, first: Version, second: Version) -> None:
    """Compare two versions on the validation images, with a significance test."""
    from cifarctl.flows.compare import compare_versions
    from cifarctl.ui.tables import comparison

    result = compare_versions(_open(run), first, second)
    run.output.result(result, comparison(result))


def promote(run: Run, version: Version, alias: Alias = "production", why: Why = DEFAULT_WHY) -> None:
    """Point an alias at a version, after the version has passed every load-time check."""
    from cifarctl.errors import AliasDamaged
    from cifarctl.registry.loading import load

    registry = _open(run)
    number = load(registry, version).manifest.version
    before = None
    with suppress(AliasDamaged):
        before = registry.alias(alias)
    moved = registry.promote(number, alias=alias, who="cli", why=why)
    verb = "already is" if before is not None and before.generation == moved.generation else "is now"
    document = {"alias": moved.name, "version": moved.version, "generation": moved.generation}
    run.output.result(document, f"{moved.name} {verb} version {moved.version}")


def rollback(run: Run, alias: Alias = "production", why: Why = DEFAULT_WHY) -> None:
    """Move an alias back to its previous version; repeat to go further back."""
    moved = _open(run).rollback(alias=alias, who="cli", why=why)
    document = {"alias": moved.name, "version": moved.version, "generation": moved.generation}
    run.output.result(document, f"{moved.name} rolled back to version {moved.version}")


def remove_alias(
    run: Run, alias: Annotated[str, typer.Argument(help="The alias to remove.")], why: Why = DEFAULT_WHY
) -> None:
    """Remove an alias; its version is kept."""
    removed = _open(run).remove_alias(alias, who="cli", why=why)
    text = f"alias {alias} removed" if removed else f"there is no alias {alias}; nothing to remove"
    run.output.result({"alias": alias, "removed": removed}, text)


def history(run: Run, alias: Annotated[str | None, typer.Option(help="Only moves of this alias.")] = None) -> None:
    """Show all alias moves (who, when, why) and all rejections by the gate."""
    from cifarctl.ui.tables import history_table

    moves = _open(run).history(alias)
    run.output.result([move.model_dump() for move in moves], history_table(moves))


def gc(
    run: Run,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what would be removed, and remove nothing.")
    ] = False,
) -> None:
    """Remove old versions and partial files of killed writers."""
    from cifarctl.ui.tables import removed_table

    removed = _open(run).gc(dry_run=dry_run)
    document = [{"version": r.version, "path": str(r.path), "reason": r.reason, "bytes": r.bytes} for r in removed]
    run.output.result(document, removed_table(document, dry_run=dry_run))


def verify(
    run: Run,
    version: Annotated[
        str | None, typer.Argument(help="A version; default: all versions, the aliases and the history.")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Rebuild aliases from the history, and the history from aliases; damaged files move to damaged/.",
        ),
    ] = False,
) -> None:
    """Run all load-time checks on versions, and compare aliases with the history."""
    settings = run.settings()
    from cifarctl.errors import IntegrityError
    from cifarctl.registry import Registry
    from cifarctl.registry.inspection import inspect
    from cifarctl.ui.tables import verify_table

    registry = Registry(settings.registry)
    repaired = registry.repair() if repair else []
    numbers = [registry.resolve(version)] if version else registry.numbers()
    findings = inspect(registry, numbers, settings.data, everything=version is None)
    document = [
        *({"version": None, "problem": fault.finding, "repaired": True} for fault in repaired),
        *findings,
    ]
    run.output.result(document, verify_table(document, registry.dir))
    if problems := [finding["problem"] for finding in findings if finding["problem"]]:
        raise IntegrityError("; ".join(problems))


def import_model(
    run: Run,
    file: Annotated[Path, typer.Argument(help="Weights saved by torch.save: a state dictionary.")],
    model: Annotated[str, typer.Option(help="The architecture of the weights.")] = "net",
    promote: Annotated[bool, typer.Option("--promote", help="Also make it the production version.")] = False,
) -> None:
    """Register weights saved by torch.save (weights only: no code is run)."""
    from cifarctl.cli.data import load_data
    from cifarctl.flows.importing import import_weights
    from cifarctl.registry import Registry
    from cifarctl.ui.widgets import percent

    settings = run.settings()
    dataset, split = load_data(run, settings.data)
    registry = Registry(settings.registry.trusting(model))
    manifest = import_weights(registry, file, model, dataset, split, settings.data, settings.serve)
    if promote:
        registry.promote(manifest.version, who="cli", why=f"imported from {file.name}")
    accuracy = manifest.metrics["test_accuracy"]
    document = {"version": manifest.version, "test_accuracy": accuracy, "promoted": promote}
    run.output.result(document, f"version {manifest.version}: test accuracy {percent(accuracy)}")
