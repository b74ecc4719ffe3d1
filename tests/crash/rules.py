"""The safety rules, each with the change that removes it and the tests that must notice."""

from dataclasses import dataclass

SIMULATION = "tests/crash/test_interleavings.py"


@dataclass(frozen=True)
class Rule:
    """A rule of the sources: `old` occurs once in `file`, and with `new` in its place the rule is gone."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str = SIMULATION


RULES = (
    Rule(
        "a lease keeps other launchers away",
        "launcher/journal.py",
        "or lease.until <= self._store.now()",
        "or True",
    ),
    Rule(
        "the record is written only over what was read",
        "launcher/journal.py",
        "held.etag = self._store.put(keys.record_key(record.run_id), data, if_match=held.etag)",
        "held.etag = self._store.put(keys.record_key(record.run_id), data)",
    ),
    Rule(
        "who lost the lease stops",
        "launcher/journal.py",
        "if theirs.lease is None or theirs.lease.holder != self._holder:",
        "if False:",
    ),
    Rule(
        "a wish of another launcher survives the holder's write",
        "launcher/journal.py",
        'record = record.model_copy(update={"cancel_requested": held.record.cancel_requested})',
        "pass",
    ),
    Rule(
        "a pass goes on from what the bucket holds",
        "launcher/journal.py",
        "held.record, held.etag = theirs, etag",
        "held.etag = etag",
    ),
    Rule(
        "one open run for each name",
        "launcher/journal.py",
        "if not self._is_over(lock, name):",
        "if False:",
        "tests/launcher/test_loop.py",
    ),
    Rule(
        "the intent is on record before anything is asked for",
        "launcher/loop.py",
        "self._actions.write(held, decision.record)",
        "held.record = decision.record",
    ),
    Rule(
        "that a pod is asked for is written first",
        "launcher/actions.py",
        'self._update(held, attempt, {"asked_at": now, "resumed_epoch": inherited.state_epoch})',
        "pass",
    ),
    Rule(
        "nothing is asked for twice",
        "launcher/reconcile.py",
        "if item.open and item.asked_at is None]",
        "if item.open and not item.pod_ids]",
    ),
    Rule(
        "a pod whose id can no longer be recorded is ended",
        "launcher/actions.py",
        "self._world.pods.terminate(pod.pod_id)",
        "pass",
        "tests/launcher/hardships/test_two_launchers.py",
    ),
    Rule(
        "a pod is adopted by its name",
        "launcher/observe.py",
        "found = {pod.pod_id: pod for pod in self.pods.find(attempt.pod_name)}",
        "found: dict[str, Pod] = {}",
    ),
    Rule(
        "an error is no absence",
        "launcher/observe.py",
        "return None\n        return tuple(found.values())",
        "return ()\n        return tuple(found.values())",
    ),
    Rule(
        "a pod that does not show may yet show",
        "launcher/judgement.py",
        "return seconds_between(attempt.asked_at or attempt.intent_at, now) > lag_seconds",
        "return True",
    ),
    Rule(
        "gone is what is confirmed absent",
        "launcher/judgement.py",
        "sight.pods == ()\n        and set",
        "set",
    ),
    Rule(
        "gone is whose end was acknowledged",
        "launcher/judgement.py",
        "and set(attempt.pod_ids) <= set(attempt.acknowledged)",
        "",
    ),
    Rule(
        "a pod that shows up late is ended, too",
        "launcher/reconcile.py",
        "if attempt.gone_at is not None and seen.of(attempt).pods:",
        "if False:",
        "tests/launcher/hardships/test_two_launchers.py",
    ),
    Rule(
        "one pod at a time",
        "launcher/reconcile.py",
        "    if not record.all_gone:\n        unasked",
        "    if any(attempt.open for attempt in record.attempts):\n        unasked",
    ),
    Rule(
        "of two pods the one without the claim is ended",
        "launcher/reconcile.py",
        "doomed = [pod_id for pod_id in attempt.pod_ids if owner in attempt.pod_ids and pod_id != owner]",
        "doomed: list[str] = []",
        "tests/launcher/test_loop.py",
    ),
    Rule(
        "the hard deadline ends an attempt",
        "launcher/judgement.py",
        "if now >= attempt.hard_deadline:",
        "if False:",
    ),
    Rule(
        "the hard deadline holds without the store",
        "launcher/loop.py",
        "enforcement.enforce(held.record, self._world.notifier)\n                    self._mend()",
        "self._mend()",
        "tests/launcher/hardships/test_deadlines.py",
    ),
    Rule(
        "the hard deadline waits for no download",
        "launcher/actions.py",
        "if attempt.gone_at is None and seen.now < attempt.hard_deadline <= now:",
        "if False:",
        "tests/launcher/hardships/test_deadlines.py",
    ),
    Rule(
        "earlier attempts count against the cap",
        "launcher/budget.py",
        "dollars = budget.cap_dollars - spent_at_most(record, now)",
        "dollars = budget.cap_dollars",
        "tests/launcher/test_loop.py",
    ),
    Rule(
        "an attempt is charged until its absence is confirmed",
        "launcher/model.py",
        "return rate * seconds_between(attempt.intent_at, attempt.gone_at or now) / 3600",
        "end = attempt.ended.at if attempt.ended else now\n"
        "    return rate * seconds_between(attempt.intent_at, end) / 3600",
    ),
    Rule(
        "a price above the ceiling ends the pod",
        "launcher/judgement.py",
        "if price is not None and price > attempt.price_ceiling + PRICE_TOLERANCE:",
        "if False and price is not None:",
        "tests/launcher/test_loop.py",
    ),
    Rule(
        "silence counts only on passes that saw both sides",
        "launcher/judgement.py",
        "if not sight.storage or sight.pods is None:",
        "if not sight.storage:",
        "tests/launcher/test_loop.py",
    ),
    Rule(
        "silence is measured by the store's time of the heartbeat",
        "launcher/judgement.py",
        "if sight.heartbeat_at != watch.heartbeat_at:",
        "if watch.heartbeat_at is None:",
    ),
    Rule(
        "a laptop that slept saw nothing",
        "launcher/reconcile.py",
        "gap = min(seconds_between(record.passed_at or seen.now, seen.now), GAP_SECONDS_MAX)",
        "gap = seconds_between(record.passed_at or seen.now, seen.now)",
        "tests/launcher/hardships/test_deadlines.py",
    ),
    Rule(
        "without the store nobody is judged silent or dead",
        "launcher/judgement.py",
        "if state is Probe.UNKNOWN or not sight.storage:",
        "if state is Probe.UNKNOWN:",
    ),
    Rule(
        "pods are looked at before the bucket",
        "launcher/observe.py",
        "return self._stored(attempt, pods)",
        "stored = self._stored(attempt, pods)\n"
        "            import dataclasses\n"
        "            pods = self._pods_of(attempt) if attempt.asked_at else ()\n"
        "            return dataclasses.replace(stored, pods=pods)",
    ),
    Rule(
        "an attempt is collected only on a look at its results",
        "launcher/reconcile.py",
        "and seen.of(attempt).storage and not waiting",
        "and not waiting",
    ),
    Rule(
        "what was never listed is not given up",
        "launcher/reconcile.py",
        "looked = all(seen.of(attempt).storage for attempt in uncollected)",
        "looked = True",
    ),
    Rule(
        "what is fetched is compared with its receipt",
        "launcher/pullback.py",
        "if (found, size) != (receipt.sha256, receipt.bytes):",
        "if False:",
    ),
    Rule(
        "a file that was touched is not believed",
        "launcher/verified.py",
        "return [*_content(stat), stat.st_ctime_ns, sha256]",
        "return [*_content(stat), 0, sha256]",
        "tests/launcher/test_pullback.py",
    ),
    Rule(
        "a receipt counts only for what the manifest listed",
        "launcher/reconcile.py",
        "and expected.get(receipt.key) == (receipt.kind, receipt.epoch)",
        "",
        "tests/launcher/hardships/test_hostile_pods.py",
    ),
    Rule(
        "what is at home is looked at again before a run is closed",
        "launcher/actions.py",
        "absent = self._world.home.absent(held.record)",
        "absent: tuple[Brought, ...] = ()",
    ),
    Rule(
        "a state is taken over only when it is whole",
        "launcher/inheritance.py",
        "except (IntegrityError, ObjectMissing) as error:",
        "except ZeroDivisionError as error:",
        "tests/launcher/test_loop.py",
    ),
    Rule(
        "each attempt has keys of its own",
        "job/contract/keys.py",
        'return f"{run_prefix(run_id)}attempts/{attempt}/"',
        'return f"{run_prefix(run_id)}attempts/1/"',
    ),
    Rule(
        "a claim is created once",
        "job/transfer.py",
        '({"If-None-Match": "*"} if only_create else {})',
        "{}",
        "tests/job/test_transfer.py::test_create_only_succeeds_once",
    ),
    Rule(
        "who reads another's claim ends itself",
        "job/start.py",
        "if owner.pod_id != pod_id:",
        "if False:",
        "tests/job/test_lifecycle.py::test_a_superseded_pod_writes_nothing",
    ),
    Rule(
        "an attempt that said its last word is not begun again",
        "job/start.py",
        "if _has_last_word(bucket, life, patience):",
        "if False:",
        "tests/job/test_lifecycle.py::test_a_last_word_is_not_spoken_twice",
    ),
    Rule(
        "a receipt follows its object",
        "job/uploads.py",
        "persist(lambda: self._bucket.put_file(artefact.key, artefact.path, content), patience)\n",
        "Worker('late').submit(\n"
        "            lambda: persist(\n"
        "                lambda: self._bucket.put_file(artefact.key, artefact.path, content), patience))\n",
        "tests/job/test_lifecycle.py::test_a_receipt_follows_its_object",
    ),
    Rule(
        "a state waits for the checkpoints before it",
        "job/state.py",
        "while not self._settled(epoch):",
        "while False:",
        "tests/job/test_lifecycle.py::test_a_state_waits_for_its_checkpoints",
    ),
    Rule(
        "an input is what the manifest says",
        "job/transfer.py",
        "part.stat().st_size == size and _sha256(part) == sha256",
        "part.stat().st_size == size",
        "tests/job/test_failures.py::test_a_tampered_input_is_named",
    ),
    Rule(
        "the job ends itself at its hard deadline",
        "job/watchdog.py",
        "return self.seconds_left <= 0",
        "return False",
        "tests/job/test_process.py::test_the_hard_deadline_kills_everything",
    ),
    Rule(
        "deadlines come earlier only",
        "job/watchdog.py",
        "self._deadline = min(self._deadline, deadline)",
        "self._deadline = deadline",
        "tests/job/test_parts.py",
    ),
    Rule(
        "the deadline is armed before the first byte",
        "job/root.py",
        "    watchdog.arm()\n",
        "",
        "tests/job/test_process.py::test_a_deadline_is_armed_before_the_first_byte",
    ),
    Rule(
        "a pod at RunPod ends itself when its work is over",
        "job/__main__.py",
        "    teardown.end()\n",
        "    return outcome.code\n",
        "tests/simulators/test_runpod_teardown.py::test_a_finished_job_ends_its_pod",
    ),
    Rule(
        "whatever ends the main thread ends the pod",
        "job/__main__.py",
        "except BaseException as error:",
        "except ZeroDivisionError as error:",
        "tests/simulators/test_runpod_teardown.py::test_whatever_ends_the_main_thread_the_pod_is_ended",
    ),
    Rule(
        "a container that was asked to go may go on",
        "job/__main__.py",
        "if outcome.code is ExitCode.TERMINATED:",
        "if False:",
        "tests/simulators/test_runpod_teardown.py::test_a_container_that_was_asked_to_go_goes_on_in_its_next_life",
    ),
    Rule(
        "a machine around the pod is not the pod's to end",
        "job/environment.py",
        "if not pod_id or variables.get(POD_ID_VARIABLE):",
        "if not pod_id:",
        "tests/job/test_teardown.py::test_who_has_to_end_itself",
    ),
    Rule(
        "at the deadline the pod is ended, not its process",
        "job/root.py",
        "    if teardown is not None:\n        teardown.say",
        "    if False:\n        teardown.say",
        "tests/simulators/test_runpod_teardown.py::test_the_hard_deadline_ends_the_pod_whatever_hangs",
    ),
    Rule(
        "what fails for a moment does not end the watch",
        "job/watchdog.py",
        "with suppress(Exception):",
        "with suppress(ZeroDivisionError):",
        "tests/job/test_parts.py::test_a_clock_that_fails_for_a_moment_does_not_stop_the_watchdog",
    ),
    Rule(
        "where v2 refuses, GraphQL is asked",
        "job/teardown.py",
        "for api in Api:",
        "for api in (Api.V2,):",
        "tests/job/test_teardown.py::test_the_key_is_enough_wherever_it_is_accepted",
    ),
    Rule(
        "an acknowledged end is asked for again",
        "job/teardown.py",
        "                    yield _jittered(LONGEST_WAIT_SECONDS)\n",
        "                    yield from itertools.repeat(LONGEST_WAIT_SECONDS)\n",
        "tests/job/test_teardown.py::test_an_acknowledgement_is_no_end",
    ),
    Rule(
        "nothing that is raised ends the asking",
        "job/teardown.py",
        "            with suppress(BaseException):\n                for seconds",
        "            with suppress(ZeroDivisionError):\n                for seconds",
        "tests/job/test_teardown.py::test_nothing_that_is_raised_ends_it",
    ),
    Rule(
        "a request that hangs is left behind",
        "job/provider.py",
        "answers.get(timeout=ANSWER_SECONDS)",
        "answers.get()",
        "tests/job/test_teardown.py::test_what_hangs_is_left_behind",
    ),
    Rule(
        "a broken certificate setting keeps no pod alive",
        "job/provider.py",
        "def terminate(self, api: Api, *, trust_env: bool = False)",
        "def terminate(self, api: Api, *, trust_env: bool = True)",
        "tests/job/test_tls.py::test_a_pod_ends_itself_without_the_systems_certificates",
    ),
    Rule(
        "what the provider's errors quote is not said",
        "job/provider.py",
        "({type(error).__name__})",
        "({error})",
        "tests/job/test_teardown.py::test_a_key_that_cannot_be_sent_is_no_end_of_trying",
    ),
    Rule(
        "only orphans are let go unasked",
        "job/supervise.py",
        " and ended not in self._groups:",
        ":",
        "tests/job/test_supervise.py::test_orphans_are_let_go_and_children_never",
    ),
    Rule(
        "children die with the job",
        "job/leash.py",
        "    _kill_group()\n\n\ndef main",
        "\n\ndef main",
        "tests/job/test_process.py::test_sigkill_of_the_job_kills_its_children",
    ),
    Rule(
        "children get no secret",
        "job/supervise.py",
        "if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)",
        "",
        "tests/job/test_lifecycle.py::test_the_child_gets_no_secret",
    ),
    Rule(
        "errors hold no link",
        "job/transfer.py",
        'raise TransientError(f"{method} {what}: {type(error).__name__}") from None',
        'raise TransientError(f"{method} {link.url.get_secret_value()}: {error}") from error',
        "tests/job/test_transfer.py::test_errors_have_a_kind_and_no_url",
    ),
    Rule(
        "links outlive the hard deadline",
        "launcher/manifests.py",
        "if expiry < hard_deadline + EXPIRY_MARGIN:",
        "if False:",
        "tests/launcher/test_loop.py",
    ),
)
