"""Speech of the probes on its way into the log: decoded to WAV files beside the training, then made into events.

Shape suffixes: K codebooks, T frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from higgs_audio_trainer.events import CodesEnd, GenerationSample
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.recording.decoder_process import FOLDER, DecoderProcess, Job
from higgs_audio_trainer.voice.measures import agreement_of, repeats_of
from higgs_audio_trainer.voice.sentences import safe_stem

if TYPE_CHECKING:
    from higgs_audio_trainer.data.batch import Ints
    from higgs_audio_trainer.families.speech import Decoding, Speech, SpeechPrompt


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a model said of all probes at one step.

    Attributes:
        step: Optimizer steps done.
        prompts: Prompts.
        speeches: What the model said of each prompt.
        decoding: Choice of codes.
        duration_s: Time that it took; seconds.
    """

    step: int
    prompts: Sequence[SpeechPrompt]
    speeches: Sequence[Speech]
    decoding: Decoding
    duration_s: float


@dataclass(slots=True)
class _Waiting:
    """Speech that is being decoded.

    Attributes:
        spoken: The speech.
        paths: File of each speech, relative to the output directory.
        answers: Answers of the decoder, by the number of the probe. None for a file that is not written.
    """

    spoken: Spoken
    paths: Sequence[str]
    answers: dict[int, Mapping[str, Any] | None] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return len(self.answers) == len(self.paths)


class Generations:
    """Queue of the probes' speech between the model and the log. Nothing waits, except for `wait`.

    Args:
        decoder: Decodes the speech.
        codebooks: Codebooks to show.
        window: Codes to show at each end.
    """

    def __init__(self, decoder: DecoderProcess, *, codebooks: Sequence[int], window: int) -> None:
        self._decoder = decoder
        self._codebooks, self._window = codebooks, window
        self._waiting: deque[_Waiting] = deque()

    def add(self, spoken: Spoken) -> None:
        """Queue speech for the decoder."""
        waiting = _Waiting(spoken, _paths(spoken))
        self._waiting.append(waiting)
        for number, (prompt, speech, path) in enumerate(
            zip(spoken.prompts, spoken.speeches, waiting.paths, strict=True)
        ):
            answered = partial(waiting.answers.__setitem__, number)
            if speech.codes_KT.shape[1] == 0:
                answered(None)
                continue
            voice = prompt.voice_KT
            more = {"text": prompt.text, "voice": None if voice is None else voice.tolist()}
            self._decoder.put(Job(path, (speech.codes_KT,), more, answered), most=2 * len(spoken.prompts))

    @property
    def is_waiting(self) -> bool:
        """True while speech is queued or decoded speech was not taken."""
        return bool(self._waiting)

    def decoded(self) -> list[LoggedStep]:
        """Return the events of the speech that is decoded by now, in the order of the steps."""
        found = []
        while self._waiting and self._waiting[0].is_complete:
            found.append(self._events(self._waiting.popleft()))
        return found

    def _events(self, waiting: _Waiting) -> LoggedStep:
        spoken = waiting.spoken
        samples = (
            self._event(spoken, prompt, speech, waiting.paths[number], waiting.answers[number])
            for number, (prompt, speech) in enumerate(zip(spoken.prompts, spoken.speeches, strict=True))
        )
        return LoggedStep(spoken.step, generations=tuple(samples))

    def _event(
        self, spoken: Spoken, prompt: SpeechPrompt, speech: Speech, path: str, answer: Mapping[str, Any] | None
    ) -> GenerationSample:
        codes_KT, label_KT = speech.codes_KT, prompt.label_KT
        repeats = repeats_of(codes_KT)
        decoding = asdict(spoken.decoding)
        first, last = self._ends(codes_KT, label_KT)
        known = answer or {}
        assert prompt.inputs.ref is not None, "a prompt has a name"
        return GenerationSample(
            step=spoken.step,
            probe=prompt.id,
            fingerprint=prompt.inputs.ref.fingerprint,
            text=prompt.text,
            seed=decoding.pop("seed"),
            decoding=decoding,
            frames=codes_KT.shape[1],
            frames_label=None if label_KT is None else label_KT.shape[1],
            stopped=speech.stopped,
            first=first,
            last=last,
            agreement=None if label_KT is None else agreement_of(codes_KT, label_KT),
            longest_run=repeats.longest_run,
            repeat_share=repeats.share,
            silence_share=known.get("silence_share"),
            peak=known.get("peak"),
            audio=None if answer is None else path,
            cer=known.get("cer"),
            wer=known.get("wer"),
            speaker_similarity=known.get("speaker_similarity"),
            duration_s=spoken.duration_s,
        )

    def _ends(self, codes_KT: Ints, label_KT: Ints | None) -> tuple[tuple[CodesEnd, ...], tuple[CodesEnd, ...]]:
        """Return the first and the last codes of each shown codebook. The last codes never overlap the first."""
        num_frames, window = codes_KT.shape[1], self._window
        num_last = min(window, max(0, num_frames - window))
        first, last = [], []
        for k in self._codebooks:
            codes = codes_KT[k].tolist()
            labels = None if label_KT is None else label_KT[k].tolist()
            first.append(_end(k, codes[:window], None if labels is None else labels[:window]))
            if num_last:
                last.append(_end(k, codes[-num_last:], None if labels is None else labels[-num_last:]))
        return tuple(first), tuple(last)


def _end(codebook: int, codes: list[int], labels: list[int] | None) -> CodesEnd:
    return CodesEnd(codebook=codebook, codes=tuple(codes), labels=None if labels is None else tuple(labels))


def _paths(spoken: Spoken) -> list[str]:
    """Return the file of each speech. Ids that differ only in what a file name cannot have get a number."""
    taken: set[str] = set()
    paths = []
    for prompt in spoken.prompts:
        name = stem = safe_stem(prompt.id)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        paths.append(f"{FOLDER}/step-{spoken.step:06d}-probe-{name}.wav")
    return paths
