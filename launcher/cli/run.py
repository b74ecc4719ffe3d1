"""`retrain run`: the whole job, from checked data to a model at home and a pod that is proven gone."""

import click

from launcher.cli.options import SettingsFlags, settings_options

SPEEDS_OF_RUNS = 30
"""The last runs whose measured speeds make the forecast."""


@click.command("run")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("--trim", is_flag=True, help="Train fewer epochs where all of them do not fit under the cap.")
@click.option("--detach", is_flag=True, help="Return as soon as the pod is asked for; follow with attach.")
@click.option(
    "--accept-risk",
    is_flag=True,
    help="Start a rented pod that nobody watches without proof that it ends by itself.",
)
@settings_options
def command(*, as_json: bool, trim: bool, detach: bool, accept_risk: bool, flags: SettingsFlags) -> int:
    """Train: check and pack the data, rent a pod, bring every checkpoint home, prove the pod gone.

    Ctrl-C detaches: the run goes on under its deadline, `retrain attach` follows it.
    """
    from launcher.cli.attendance import require_watched
    from launcher.cli.follow import conclude, follow, has_pod, noting_leaks, print_result
    from launcher.cli.narrator import Narrator
    from launcher.cli.providers import make_ready, require_startable
    from launcher.cli.wiring import workplace
    from launcher.errors import UsageError
    from launcher.loop import Loop
    from launcher.model import RunRecord
    from launcher.money.terms import settle, with_speeds
    from launcher.staging import stage
    from launcher.storage.probe import require_conditions
    from launcher.storage.s3 import S3Store

    settings = flags.load()
    require_startable(settings)
    narrator = Narrator()
    with workplace(settings, narrator) as place:
        name = settings.recipe.output_name
        if place.journal.is_open(name):
            raise UsageError(
                f"a run with the output name {name} is still open",
                next_step="follow it with `retrain attach`, end it with `retrain cancel`, or rename yours",
            )
        world = place.world
        if place.server is None:
            # The embedded store is known to keep them; of a bucket of the user's nobody knows yet.
            assert isinstance(world.store, S3Store)
            require_conditions(world.store)
        require_watched(settings, world.store, narrator, detach=detach, accept_risk=accept_risk)
        make_ready(settings, world.pods, narrator.say)

        def settled(record: RunRecord) -> RunRecord:
            # What cannot be read was told of at the start.
            earlier = place.journal.records(lambda _: None, newest=SPEEDS_OF_RUNS)
            return settle(with_speeds(record, earlier), world.pods.offers(), narrator, trim=trim)

        record = stage(
            settings,
            world.store,
            world.home,
            narrator,
            now=world.store.now(),
            place=world.pods.place,
            settle=settled,
        )

        def make_room() -> None:
            moved = world.home.set_aside(name, record.created_at)
            if moved is not None:
                narrator.say(f"what an earlier run of this name left is now in {moved}")

        place.journal.release(place.journal.create(record, prepare=make_room))
        narrator.say(f"run {record.run_id} of {name} is on record")
        if not detach:
            return follow(place, record.run_id, as_json=as_json)
        place.guard(record)
        with noting_leaks(place, record.run_id):
            record = Loop(world, place.journal, mend=place.mend).drive(record.run_id, until=has_pod)
        narrator.say(f"`retrain attach {record.run_id}` follows it, `retrain reconcile` looks after it")
        print_result(place, record, as_json=as_json)
        return conclude(place, record)
