"""One guard of the product removed at a time: do the tests notice?

::

    python tests/mutants.py [PART OF A NAME]

Each mutant is an exact replacement of text in a copy of the package, in a folder of its own; then
the tests that should notice run there. Prints a table; exit 1 when a mutant survives, or when the
tests fail without one. A text that is not found is an error: the product moved on, move the mutant.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
COPIED = ("mailqueue", "tests", "pyproject.toml")
GUARDS = "tests/faults/test_guards.py"
CRASHES = "tests/faults/test_crashes.py"
BULKHEADS = "tests/integration/test_bulkheads.py"
KEPT = "tests/integration/test_kept.py"
WEATHER = "tests/faults/test_weather.py"
WIRE = "tests/contract/test_wire.py"
ENVELOPE = "tests/contract/test_envelope.py"
DETAIL = "tests/unit/test_detail.py"
REFUSED = "tests/integration/test_refused_writes.py"
STORE = "tests/integration/test_store.py"
TUBE = "tests/integration/test_tube.py"
INTAKE = "tests/integration/test_intake.py"
DAMAGE = "tests/integration/test_damage.py"
WILD = "tests/integration/test_wild_vendor.py"
AIO = "tests/integration/test_aio.py"
INCARNATIONS = "tests/faults/test_incarnations.py"
KEYS = "tests/integration/test_keys.py"
LIST = "tests/integration/test_suppressions.py"
NOTES = "tests/integration/test_callback_notes.py"
POSTER = "tests/callbacks/test_poster.py"
REPORTS = "tests/events/test_suppressing.py"
HEARTBEATS = "tests/integration/test_heartbeats.py"
TRACING = "tests/integration/test_tracing.py"
ENDS_WITHIN = 300.0


@dataclass(frozen=True)
class Edit:
    """``old`` stands exactly once in ``file`` and becomes ``new``."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        path = root / "mailqueue" / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise LookupError(f"{self.file} has {text.count(self.old)} times: {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Mutant:
    """``tests``: pytest's arguments for those that should notice."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        for edit in self.edits:
            edit.apply(root)


MUTANTS = (
    Mutant(
        "an end that is noted already is noted again",
        (Edit("store/callbacks.py", '"cond": is_new}}', '"cond": True}}'),),
        (NOTES, "-k", "extra_copy_of_one"),
    ),
    Mutant(
        "two ends of one e-mail have one id",
        (Edit("store/callbacks.py", "_entry(_id(word, _RETRIES)", "_entry(_id(word, 0)"),),
        (NOTES, "-k", "fails_twice"),
    ),
    Mutant(
        "a step that was taken before is told again",
        (Edit("store/callbacks.py", '[{"$cond": [changes, [entry], []]}]', "[[entry]]"),),
        (NOTES, "-k", "too_late"),
    ),
    Mutant(
        "who lost its claim settles a callback",
        (
            Edit("store/callbacks.py", '                "nonce": settlement.nonce,\n', ""),
            Edit("store/callbacks.py", '                "token": settlement.token,\n', ""),
        ),
        (NOTES, "-k", "its_nonce"),
    ),
    Mutant(
        "an e-mail is pruned although a callback is due",
        (Edit("store/store.py", ", **NO_CALLBACK_DUE}", "}"),),
        (NOTES, "-k", "pruned"),
    ),
    Mutant(
        "a callback goes to any address",
        (Edit("callbacks/poster.py", "if is_allowed or is_public(str(each[4][0]))", "if True"),),
        (POSTER, "-k", "not_public_is_not_connected_to"),
    ),
    Mutant(
        "an e-mail with another time keeps its token",
        (
            Edit(
                "store/interventions.py",
                """                "lease.token": {"$add": ["$lease.token", 1]},\n""",
                "",
            ),
        ),
        (GUARDS, "-k", "at_its_old_time"),
    ),
    Mutant(
        "an e-mail that was tried gets another time",
        (Edit("store/interventions.py", """        "attempts": [],\n""", ""),),
        (GUARDS, "-k", "was_tried"),
    ),
    Mutant(
        "who is suppressed gets the e-mail",
        (
            Edit(
                "consumer/planner.py",
                "                email = email.without(people)",
                "                pass",
            ),
        ),
        (LIST, "-k", "goes_on_to_the_others"),
    ),
    Mutant(
        "who was put off gets the e-mail although he is suppressed",
        (
            Edit(
                "consumer/delivery.py",
                "if pending is None or not self.suppressed:",
                "if True:",
            ),
        ),
        (LIST, "-k", "put_off"),
    ),
    Mutant(
        "a vendor that hangs counts as not asked where attempts are traced",
        (
            Edit(
                "consumer/sender.py",
                "if not hand_over.acquire(blocking=False) or self._clock()",
                "if self._clock()",
            ),
        ),
        (TRACING, "-k", "vendor_that_hangs"),
    ),
    Mutant(
        "who was left out is not called refused",
        (
            Edit(
                "consumer/sender.py",
                "refused=(*people, *result.refused)",
                "refused=result.refused",
            ),
        ),
        (LIST, "-k", "goes_on_to_the_others"),
    ),
    Mutant(
        "a consumer that cannot read the list sends all the same",
        (
            Edit(
                "consumer/fetcher.py",
                "            suppressed = self._find_suppressed(documents.values())\n",
                "            suppressed = ()\n",
            ),
        ),
        (LIST, "-k", "cannot_be_read"),
    ),
    Mutant(
        "a vendor takes back what another one reported",
        (
            Edit(
                "store/suppressions.py",
                """{"$eq": ["$$this.source", {"$literal": source}]}, """,
                "",
            ),
        ),
        (LIST, "-k", "takes_back"),
    ),
    Mutant(
        "a vendor takes back what it reported afterwards",
        (
            Edit(
                "store/suppressions.py",
                """, {"$lte": ["$$this.at", at]}]}""",
                "]}",
            ),
        ),
        (LIST, "-k", "takes_back"),
    ),
    Mutant(
        "an older report replaces a newer one",
        (Edit("store/suppressions.py", '{"$cond": [has_newer, "$all", replaced]}', "replaced"),),
        (LIST, "-k", "any_order"),
    ),
    Mutant(
        "a copy of an event enters again who was taken back",
        (Edit("events/event_store.py", "if name not in copies]", "]"),),
        (REPORTS, "-k", "taken_back"),
    ),
    Mutant(
        "a vendor's own list counts although nobody asked for it",
        (Edit("events/event_store.py", "self._vendor_lists or not item", "True or not item"),),
        (REPORTS, "-k", "no_reason"),
    ),
    Mutant(
        "asyncio: a writer's thread that was struck leaves what waits",
        (
            Edit(
                "aio/writer.py",
                "            if self._waiting:  # something struck",
                "            if False:  # something struck",
            ),
        ),
        (AIO, "-k", "strikes_the_writers_thread"),
    ),
    Mutant(
        "asyncio: a forked child writes what its parent has waiting",
        (
            Edit(
                "aio/writer.py",
                "        if ids.process() == self._process:\n",
                "        if True:\n",
            ),
        ),
        (AIO, "-k", "parents_loop"),
    ),
    Mutant(
        "asyncio: a stuck writer is waited for",
        (Edit("aio/pending.py", "            self._give_up_writer()\n", ""),),
        (AIO, "-k", "is_stuck"),
    ),
    Mutant(
        "asyncio: a closed loop stays in memory",
        (Edit("aio/writer.py", "                pending.forget()\n", "                pass\n"),),
        (AIO, "-k", "is_closed_with"),
    ),
    Mutant(
        "asyncio: a turn that a cancelled task had is lost",
        (Edit("aio/pending.py", "                    self._admit(1)", "                    pass"),),
        (AIO, "-k", "passes_it_on"),
    ),
    Mutant(
        "asyncio: large e-mails share the writes of the others",
        (Edit("aio/writer.py", "call.size <= LARGE:", "call.size > 0:"),),
        (AIO, "-k", "writes_of_their_own"),
    ),
    Mutant(
        "no bulkheads: a vendor may hold all senders",
        (Edit("routing/bulkheads.py", "    if number == 1 or not others:\n", "    if True:\n"),),
        (BULKHEADS, "-k", "hangs_holds_its_share"),
    ),
    Mutant(
        "a sender goes to a vendor that is full of calls",
        (
            Edit(
                "routing/bulkheads.py", "if not probe and self._has_no_place(vendor):", "if False:"
            ),
        ),
        (BULKHEADS, "-k", "full_of_calls"),
    ),
    Mutant(
        "e-mails are read whatever their size",
        (Edit("consumer/fetcher.py", "most = self._memory.share(len(ids))", "most = 2**40"),),
        ("tests/process/test_memory.py", "-k", "no_more_than_their_share"),
    ),
    Mutant(
        "what a vendor does not give back is never given up",
        (Edit("routing/bulkheads.py", "c.deadline < last]", "c.deadline < 0]"),),
        (BULKHEADS, "-k", "does_not_come_back"),
    ),
    Mutant(
        "no token (nor nonce) in the filter of a settlement",
        (
            Edit("store/transitions.py", '        "lease.token": change.token,\n', ""),
            Edit("store/transitions.py", "if change.nonce is not None:", "if False:"),
        ),
        (GUARDS, "-k", "settles_nothing or claimed_since"),
    ),
    Mutant(
        "no token in the filter of a claim",
        (Edit("store/transitions.py", '        "lease.token": claim.token,\n', ""),),
        (GUARDS, "-k", "others_tried"),
    ),
    Mutant(
        "no status in the filter of a claim",
        (
            Edit(
                "store/transitions.py",
                '        "status": Status.QUEUED.value,\n        "env"',
                '"env"',
            ),
            Edit("store/transitions.py", '        "lease.token": claim.token,\n', ""),
        ),
        (GUARDS, "-k", "two_claims"),
    ),
    Mutant(
        "no nonce when a claim is read back",
        (Edit("store/bulk.py", '"lease.nonce": lease.nonce, ', ""),),
        (GUARDS, "-k", "two_claims"),
    ),
    Mutant(
        "a confirmation that matched nothing counts",
        (Edit("store/store.py", " or not self._are_durable(present)", ""),),
        (KEPT, "-k", "stored_again"),
    ),
    Mutant(
        "a known key is not confirmed",
        (
            Edit(
                "store/store.py",
                "if not self._are_durable(list(holders.values())):",
                "if False:",
            ),
        ),
        (KEPT, "-k", "only_the_old_primary_knew"),
    ),
    Mutant(
        "an earlier e-mail of the same key is taken for this one",
        (
            Edit(
                "store/transitions.py",
                '{"_id": email_id} if incarnation is None else',
                '{"_id": email_id} if True else',
            ),
        ),
        (INCARNATIONS, "-k", "nothing_to_the_next"),
    ),
    Mutant(
        "the sweeper deletes whatever has the id now",
        (Edit("store/store.py", "{**(match or {}), **guard}", "{**guard}"),),
        (INCARNATIONS, "-k", "does_not_delete"),
    ),
    Mutant(
        "what is stored under the id of a key has that key",
        (Edit("store/keys.py", "here if has_key(here, key) else", "here if here else"),),
        (KEYS, "-k", "gets_the_next_id"),
    ),
    Mutant(
        "no nonce when an insert is confirmed",
        (Edit("store/keys.py", ' and here.get("nonce") == each.get("nonce")', ""),),
        (KEPT, "-k", "of_another or anothers"),
    ),
    Mutant(
        "no lease check in the rescue",
        (Edit("store/transitions.py", "if change.expired:", "if False:"),),
        (GUARDS, "-k", "not_rescued"),
    ),
    Mutant(
        "a late yes does not win",
        (
            Edit(
                "store/transitions.py",
                "steps = [fields, _late_yes_wins(simulated)]",
                "steps = [fields]",
            ),
        ),
        (GUARDS, "-k", "came_late"),
    ),
    Mutant(
        "no intent: the claim writes no ledger line",
        (Edit("store/ledger.py", '{"$concatArrays": ["$attempts", [line]]}', '"$attempts"'),),
        (CRASHES, "-k", "after:send"),
    ),
    Mutant(
        "no journal: writes are not durable",
        (
            Edit(
                "store/mongo.py", 'WriteConcern(w="majority", j=True)', "WriteConcern(w=1, j=False)"
            ),
        ),
        (WEATHER, "-k", "dies_and_stays_away"),
    ),
    Mutant(
        "the job is deleted before the result is stored",
        (
            Edit(
                "consumer/writer.py",
                "            written, won = self._write(finished, claims, seconds)\n",
                "            end_jobs(finished)\n"
                "            written, won = self._write(finished, claims, seconds)\n",
            ),
        ),
        (CRASHES, "-k", "before:settle"),
    ),
    Mutant(
        "no relay",
        (
            Edit(
                "consumer/sweeper.py",
                'counts["announced"] = self._put_back() + self._relay()',
                'counts["announced"] = 0',
            ),
        ),
        (CRASHES, "-k", "put"),
    ),
    Mutant(
        "no rescue by the sweeper",
        (Edit("consumer/sweeper.py", '"rescued": self._rescue()', '"rescued": 0'),),
        (CRASHES, "-k", "rescue"),
    ),
    Mutant(
        "no bound on unknown outcomes",
        (Edit("lifecycle/decide.py", "case.email.unknowns > 1:", "case.email.unknowns > 100:"),),
        (CRASHES, "-k", "kills_its_process"),
    ),
    Mutant(
        "park resends",
        (Edit("lifecycle/decide.py", "not self._policy.resend_unknown or ", ""),),
        (CRASHES, "-k", "kills_its_process"),
    ),
    Mutant(
        "an unknown outcome is not counted",
        (
            Edit(
                "lifecycle/decide.py",
                "case.with_email(pin=None, unknowns=case.email.unknowns + 1)",
                "case.with_email(pin=None)",
            ),
        ),
        (CRASHES, "-k", "after:send"),
    ),
    Mutant(
        "no environment in the filter of a claim",
        (Edit("store/transitions.py", '        "env": env,\n', ""),),
        (GUARDS, "-k", "must_not_be_sent"),
    ),
    Mutant(
        "an e-mail that is not due is claimed",
        (Edit("store/transitions.py", '[{"$ifNull": ["$due_at", "$$NOW"]}, "$$NOW"]', "[1, 1]"),),
        (GUARDS, "-k", "must_not_be_sent"),
    ),
    Mutant(
        "an expired e-mail is claimed",
        (
            Edit(
                "store/transitions.py", '[{"$ifNull": ["$expires_at", _NEVER]}, "$$NOW"]', "[2, 1]"
            ),
        ),
        (GUARDS, "-k", "must_not_be_sent"),
    ),
    Mutant(
        "a failed put fails send()",
        (
            Edit(
                "queue/announcer.py",
                "            except QueueUnavailable as error:\n                self._rest",
                "            except ZeroDivisionError as error:\n                self._rest",
            ),
        ),
        (WEATHER, "-k", "out_of_memory"),
    ),
    Mutant(
        "a connection with half a reply is used again",
        (
            Edit(
                "queue/beanstalkd/tube.py",
                '            self.close()\n            raise QueueUnavailable(f"beanstalkd:',
                '            raise QueueUnavailable(f"beanstalkd:',
            ),
        ),
        (TUBE, "-k", "no_complete_answer or bad_answer"),
    ),
    Mutant(
        "one refused write fails all that are written with it",
        (Edit("store/mongo.py", 'else [e["index"] for e in errors]', "else None"),),
        (REFUSED, "-k", "no_room_is_sent"),
    ),
    Mutant(
        "a refused settlement is not made short",
        (Edit("store/transitions.py", "only_closed_line if short else ledger.", ""),),
        (REFUSED, "-k", "no_room_is_sent"),
    ),
    Mutant(
        "a late yes is overwritten as unknown",
        (Edit("store/ledger.py", '[yes, "$$line", {', '[False, "$$line", {'),),
        (STORE, "-k", "very_attempt"),
    ),
    Mutant(
        "a ledger line names all its recipients",
        (Edit("store/ledger.py", "LISTED = 5 ", "LISTED = 1000 "),),
        (REFUSED, "-k", "fullest_ledger"),
    ),
    Mutant(
        "the types of a document are not looked at",
        (
            Edit(
                "store/document.py",
                "        raise TypeError\n    return int(value)",
                "        pass\n    return value",
            ),
        ),
        (DAMAGE, "-k", "no_damage"),
    ),
    Mutant(
        "what is damaged has failed, whatever may have left",
        (Edit("store/asides.py", '"$cond": [_no_copy_left(), ', '"$cond": [True, '),),
        (DAMAGE, "-k", "surely"),
    ),
    Mutant(
        "a vendor's SystemExit ends the sender",
        (
            Edit(
                "consumer/sender.py",
                "except BaseException as error:  # noqa: BLE001  # whatever",
                "except Exception as error:  # noqa: BLE001  # whatever",
            ),
        ),
        (WILD, "-k", "senders_go_on"),
    ),
    Mutant(
        "a bug in our planning is a damaged document",
        (
            Edit(
                "consumer/planner.py",
                "        except Unreadable as error:",
                "        except Exception as error:",
            ),
        ),
        (WILD, "-k", "planning"),
    ),
    Mutant(
        "an interim answer is the answer",
        (Edit("vendors/wire/response.py", "None if head.is_interim else head", "head"),),
        (WIRE, "-k", "interim_answers_are_not"),
    ),
    Mutant(
        "a connection is kept whatever follows the answer",
        (
            Edit(
                "vendors/wire/response.py",
                "head.is_persistent and not (codings and lengths) and not self._incoming",
                "True",
            ),
            Edit("vendors/wire/connection.py", "if self.incoming or (", "if ("),
        ),
        (WIRE, "-k", "what_follows_an_answer"),
    ),
    Mutant(
        "a kept connection is not looked at before it is used",
        (Edit("vendors/wire/transport.py", " <= limit and idle_one.is_quiet():", " <= limit:"),),
        (WIRE, "-k", "between_two_emails"),
    ),
    Mutant(
        "a broken write is the end",
        (
            Edit(
                "vendors/wire/connection.py",
                "except (ConnectionError, ssl.SSLError):  # what has arrived by then",
                "except ZeroDivisionError:  # what has arrived by then",
            ),
            Edit("vendors/wire/connection.py", "if not events & select.POLLIN:", "if True:"),
        ),
        (WIRE, "-k", "refusal_before_a_large"),
    ),
    Mutant(
        "a yes counts though the e-mail was not through",
        (Edit("vendors/http.py", "if raw.early and (", "if False and ("),),
        (WIRE, "-k", "yes_before_a_large"),
    ),
    Mutant(
        "a loss of a connection that idled is held against the vendor",
        (Edit("vendors/http.py", "our_fault = failure.idled or (", "our_fault = ("),),
        (WIRE, "-k", "loss_after_idling"),
    ),
    Mutant(
        "the detail is not compared with the bodies",
        (Edit("vendors/redaction.py", "    places += _quoted_places(views, email)\n", ""),),
        (DETAIL, "-k", "three_words or line_of_one"),
    ),
    Mutant(
        "an envelope is no reason to pass over a vendor",
        (Edit("vendors/limits.py", "_CHECKS = (_envelope, ", "_CHECKS = ("),),
        (ENVELOPE, "-k", "passed_over"),
    ),
    Mutant(
        "who is shown is sent to as well",
        (
            Edit(
                "message/message.py",
                'return [("to", to), ("cc", cc), ("bcc", recipients)]',
                'return [("to", self.to), ("cc", self.cc), ("bcc", recipients)]',
            ),
        ),
        (ENVELOPE, "-k", "sent_to_and_the_headers or on_the_wire"),
    ),
    Mutant(
        "an envelope that names one of those shown is taken for a bcc",
        (
            Edit(
                "message/envelope.py",
                "if not visible <= by_identity.keys():",
                "if visible.isdisjoint(by_identity):",
            ),
        ),
        (ENVELOPE, "-k", "on_the_wire"),
    ),
    Mutant(
        "bounces go to the From",
        (Edit("vendors/smtp.py", "(email.bounce_address or sender)", "sender"),),
        (ENVELOPE, "-k", "bounce_address"),
    ),
    Mutant(
        "an envelope that cannot be read is one of the headers",
        (
            Edit(
                "store/document.py",
                """    if not recipients:
        raise LookupError
    return [envelope""",
                "    return [envelope",
            ),
        ),
        ("tests/unit/test_envelope.py", "-k", "damaged"),
    ),
    Mutant(
        "an event is deleted before its e-mail is stored",
        (
            Edit(
                "intake/intake.py",
                "        outcomes = self._store(list",
                "        self.receiver.end(list(submissions), DELETED)\n"
                "        outcomes = self._store(list",
            ),
        ),
        (CRASHES, "-k", "intake and insert"),
    ),
    Mutant(
        "an outage buries events",
        (Edit("intake/intake.py", "        except Unavailable:\n            raise\n", ""),),
        (INTAKE, "-k", "while_mongodb_is_away"),
    ),
    Mutant(
        "the key of an event does not know the server's instance",
        (
            Edit(
                "queue/beanstalkd/events.py",
                'f"intake:{self._instance}:',
                'f"intake:{self.server}:',
            ),
        ),
        (INTAKE, "-k", "without_a_binlog"),
    ),
    Mutant(
        "the key of an event dies with the server's instance",
        (Edit("queue/beanstalkd/events.py", 'server.get("binlog-current-index") != 0', "False"),),
        (INTAKE, "-k", "outlives"),
    ),
    Mutant(
        "an event that comes again at the full hour is another one",
        (Edit("intake/intake.py", "each.other_key if each.other_key in stored else ", ""),),
        (INTAKE, "-k", "another_hour"),
    ),
    Mutant(
        "counts whose reply was lost are added again",
        (
            Edit(
                "store/stats.py",
                '{"$not": [{"$in": [nonce, array("$marks")]}]}',
                '{"$literal": True}',
            ),
        ),
        (HEARTBEATS, "-k", "counts_once or none_counts_twice"),
    ),
    Mutant(
        "what was not acknowledged is written under another nonce",
        (Edit("consumer/reporter.py", "[self._in_doubt or self._next()]", "[self._next()]"),),
        (HEARTBEATS, "-k", "none_counts_twice"),
    ),
    Mutant(
        "a consumer that hangs gives signs of life",
        (
            Edit(
                "consumer/consumer.py",
                "if time.monotonic() - self._well_at < EVERY:",
                "if True:",
            ),
        ),
        (HEARTBEATS, "-k", "hangs"),
    ),
)


def copy(to: Path) -> None:
    for name in COPIED:
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to / name)


def notices(tests: Sequence[str], mutant: Mutant | None = None) -> bool:
    """Whether one of these tests fails. Raises when none ran."""
    with tempfile.TemporaryDirectory(prefix="mailqueue-mutant-") as folder:
        copy(Path(folder))
        if mutant is not None:
            mutant.apply(Path(folder))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=folder,
            timeout=ENDS_WITHIN,
            check=False,
            capture_output=True,
            text=True,
        )
    ran = " passed" in done.stdout or " failed" in done.stdout  # skipped tests notice nothing
    if done.returncode not in (0, 1) or not ran:
        raise RuntimeError(f"{tests}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Remove one guard at a time; run the tests.")
    parser.add_argument("name", nargs="?", default="", help="only mutants with this in their name")
    wanted = parser.parse_args(arguments).name
    chosen = [mutant for mutant in MUTANTS if wanted in mutant.name]
    for tests in sorted({mutant.tests for mutant in chosen}):
        if notices(tests):
            _say(f"fails without a mutant: {' '.join(tests)}")
            return 1
    survived = 0
    for mutant in chosen:
        began = time.monotonic()
        caught = notices(mutant.tests, mutant)
        survived += not caught
        said = "caught" if caught else "SURVIVED"
        _say(f"| {mutant.name:<52} | {said:<8} | {time.monotonic() - began:3.0f} s |")
    _say(f"{len(chosen) - survived} of {len(chosen)} caught")
    return int(bool(survived))


if __name__ == "__main__":
    sys.exit(main())
