"""State machine for a pipeline, with a check of all counters and claims after each step."""

from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from higgs_audio_trainer.pipeline.emit import Pipeline
from tests.builders import RUN_ID, checkpoint, train_step

ERRORS = {
    "full": OSError(28, "No space left on device"),
    "odd": ValueError("odd"),
    "interrupt": KeyboardInterrupt,
    "exit": SystemExit,
}


class Book:
    """Sink that performs planned actions and records the deliveries."""

    def __init__(self, machine, name):
        self.machine = machine
        self.name = name
        self.plan = []
        self.given = []
        self.taken = []

    def __call__(self, record):
        action = self.plan.pop(0) if self.plan else "take"
        is_probe = self.machine.asks and record["sink"] == self.name
        if not is_probe or action in ("take", "emit"):
            self.given.append(record["seq"])  # a failed request for recovery loses nothing
        if action == "emit":
            self.machine.emit_inside()
        elif action != "take":
            raise ERRORS[action]
        self.taken.append(record)

    @property
    def seqs(self):
        return {record["seq"] for record in self.taken}


class Emitting(RuleBasedStateMachine):
    """Events, failing sinks, re-entrant calls, other failures, and Ctrl-C in the middle of a delivery."""

    @initialize(count=st.integers(1, 4))
    def begin(self, count):
        """Make a pipeline of a few sinks."""
        self.books = [Book(self, f"s{index}") for index in range(count)]
        self.emit = Pipeline(
            [(f"s{index}", book) for index, book in enumerate(self.books)], run_id=RUN_ID, say=self.speak
        )
        self.elsewhere = 0  # losses besides failed deliveries
        self.replaced = 0
        self.talkative = False
        self.asks = False
        self.said = []

    def speak(self, text):
        """Record an announcement. If `talkative`, also emit and fail."""
        self.said.append(text)
        if self.talkative:
            self.emit_inside()
            raise RuntimeError(text)

    def emit_inside(self):
        """Emit from within a call."""
        self.elsewhere += 1
        self.emit(checkpoint())

    @rule(data=st.data(), actions=st.lists(st.sampled_from(["take", "emit", *ERRORS]), max_size=6))
    def plan(self, data, actions):
        """Plan a sink's actions for the next records."""
        data.draw(st.sampled_from(self.books)).plan += actions

    @rule(talkative=st.booleans())
    def talk(self, talkative):
        """Choose whether `say` misbehaves."""
        self.talkative = talkative

    @rule(times=st.integers(1, 3))
    def event(self, times):
        """Emit, and let exceptions outside of `Exception` pass."""
        for _ in range(times):
            with suppress(KeyboardInterrupt, SystemExit):
                self.emit(checkpoint())

    @rule()
    def ask_for_recovery(self):
        """Try the recovery of each failed sink separately. A failed attempt loses no record."""
        for book in self.books:
            book.plan = [action for action in book.plan if action in ("take", "emit", "full", "odd")][:1]
        next_seq = 1 + max((seq for book in self.books for seq in book.given), default=-1)
        self.asks = True
        self.emit.recover()
        self.asks = False
        for book in self.books:
            assert all(record["event"] == "sink_recovered" for record in book.taken if record["seq"] >= next_seq)

    @rule()
    def odd_event(self):
        """Emit an event with a value that no line can hold."""
        self.replaced += 1
        with suppress(KeyboardInterrupt, SystemExit):
            self.emit(train_step(loss=object()))

    @rule(event=st.sampled_from([None, 1, "checkpoint", object]))
    def no_event(self, event):
        """Emit an object that is no event."""
        self.elsewhere += 1
        with suppress(KeyboardInterrupt):  # from a sink that gets the report of an earlier outage
            self.emit(event)

    @rule(source=st.sampled_from(["extraction", "emit", "s0"]))
    def fail(self, source):
        """Count a failure of another source."""
        self.elsewhere += 1
        self.emit.fail(source, ValueError("x"))

    @invariant()
    @precondition(lambda self: hasattr(self, "books"))
    def books_agree(self):
        """Check that seq has no gap, that each sink gets seq in order, and that the counters match the sinks."""
        delivered = self.books[0].given
        assert delivered == list(range(len(delivered)))
        for book in self.books:
            assert book.given == sorted(set(book.given))
            assert [record["seq"] for record in book.taken] == sorted(book.seqs)
        everywhere = set.intersection(*(book.seqs for book in self.books))
        assert self.emit.written == len(everywhere)
        missed = sum(len(delivered) - len(book.seqs) for book in self.books)
        assert self.emit.lost == missed + self.elsewhere
        assert self.emit.replaced == self.replaced
        assert self.emit.seconds >= 0
        assert len(self.said) == len(set(self.said))
        self.claims_agree()

    def claims_agree(self):
        """Check each claim against the records missing since the previous claim, and return the unclaimed seqs."""
        rest = []
        for index, book in enumerate(self.books):
            since, seqs = 0, book.seqs
            for record in book.taken:
                if record["event"] == "sink_recovered" and record["sink"] == f"s{index}":
                    missing = [seq for seq in range(since, record["seq"]) if seq not in seqs]
                    assert missing
                    claimed = (record["lost"], record["first_seq"], record["last_seq"])
                    assert claimed == (len(missing), missing[0], missing[-1])
                    since = record["seq"]
            rest += [seq for seq in range(since, len(self.books[0].given)) if seq not in seqs]
        return rest

    def teardown(self):
        """Check that a single event claims every loss after all sinks work again."""
        if hasattr(self, "books"):
            for book in self.books:
                book.plan.clear()
            self.talkative = False
            self.emit(checkpoint())
            assert self.claims_agree() == []
            self.books_agree()


TestEmitting = Emitting.TestCase
TestEmitting.__doc__ = "Fault: anything, in any order. Expected: seq without a hole, exact counters, exact claims."
TestEmitting.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
