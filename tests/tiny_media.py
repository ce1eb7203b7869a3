"""Tiny models of images and of sounds with random weights, and files that they can learn from."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from tiny_runs import root
from transformers import (
    GenerationConfig,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

SIDE, RATE = 16, 8000
TONES = {"low": 300, "middle": 900, "high": 2700}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def folder(name: str) -> Path:
    """A folder that is there."""
    made = root() / "media" / name
    made.mkdir(parents=True, exist_ok=True)
    return made


@cache
def vit() -> Path:
    """A ViT without a head, as a base is published."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(image_size=SIDE, patch_size=8, initializer_range=0.1, **sizes)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder("vit"))
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder("vit"))
    return folder("vit")


def picture(colour: str, number: int, size: tuple[int, int] = (20, 12)) -> Image.Image:
    """A noisy image of one colour."""
    noise = np.random.default_rng(number).integers(-30, 30, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))


@cache
def images() -> Path:
    """An image folder: 24 files to train on and 9 to score, a folder each colour."""
    made = folder("images")
    for split, count in (("train", 24), ("validation", 9)):
        for number in range(count):
            colour = list(COLOURS)[number % 3]
            target = made / split / colour
            target.mkdir(parents=True, exist_ok=True)
            picture(colour, number).save(target / f"{number}.png")
    return made


def written(file: Path, rows: list[dict]) -> Path:
    """Rows as JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def classify_images(*more: str, path: Path | None = None) -> list[str]:
    """A recipe on the command line: the colour of images."""
    trainer = ("per_device_train_batch_size=4", "learning_rate=1e-2", "max_steps=20", "logging_steps=2")
    return ["task=image_classification", f"model.path={vit()}", f"dataset.path={path or images()}", "precision=fp32",
            f"output_dir={root() / 'runs'}", *(f"trainer.{each}" for each in trainer), *more]  # fmt: skip


@cache
def wav2vec2() -> Path:
    """A wav2vec 2.0 without a head and without a vocabulary, which hears at 8 kHz and draws no masks."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    hears = {
        "conv_dim": [32] * 4,
        "conv_kernel": [10, 8, 4, 4],
        "conv_stride": [5, 4, 4, 2],
        "num_feat_extract_layers": 4,
    }
    calm = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop", "final_dropout"), 0.0
    )
    config = Wav2Vec2Config(
        **sizes, **hears, **calm, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, mask_time_prob=0.0,
        initializer_range=0.1, classifier_proj_size=32, vocab_size=32,
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(folder("wav2vec2"))
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True).save_pretrained(folder("wav2vec2"))
    return folder("wav2vec2")


def sound(hertz: float, number: int, seconds: float = 0.25, rate: int = RATE) -> np.ndarray:
    """A noisy tone."""
    times = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(number).normal(0, 0.02, len(times))
    return (np.sin(2 * np.pi * hertz * times) / 2 + noise).astype(np.float32)


@cache
def sounds() -> Path:
    """An audio folder: 24 files to train on and 9 to score, a folder each pitch."""
    made = folder("sounds")
    for split, count in (("train", 24), ("validation", 9)):
        for number in range(count):
            pitch = list(TONES)[number % 3]
            target = made / split / pitch
            target.mkdir(parents=True, exist_ok=True)
            seconds = 0.2 + 0.05 * (number % 4)
            soundfile.write(target / f"{number}.wav", sound(TONES[pitch], number, seconds), RATE)
    return made


def classify_sounds(*more: str, path: Path | None = None) -> list[str]:
    """A recipe on the command line: the pitch of sounds."""
    trainer = ("per_device_train_batch_size=4", "learning_rate=5e-3", "max_steps=24", "logging_steps=2")
    return ["task=audio_classification", f"model.path={wav2vec2()}", f"dataset.path={path or sounds()}",
            "precision=fp32", f"output_dir={root() / 'runs'}", *(f"trainer.{each}" for each in trainer),
            *more]  # fmt: skip


@cache
def ctc() -> Path:
    """The same wav2vec 2.0 with a processor that writes: three letters, in upper case, and the space."""
    Wav2Vec2Model.from_pretrained(wav2vec2()).save_pretrained(folder("ctc"))
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"LMH"]
    (folder("ctc") / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(tokens)}))
    words = Wav2Vec2CTCTokenizer(str(folder("ctc") / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor.from_pretrained(wav2vec2()), words).save_pretrained(folder("ctc"))
    return folder("ctc")


@cache
def whisper() -> Path:
    """A Whisper of three letters that hears a second at 8 kHz, and knows English and Chinese."""
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>",
               "<|notimestamps|>"]  # fmt: skip
    ids = {token: at for at, token in enumerate([*"lmh", *special])}
    words = WhisperTokenizer(ids, [], pad_token=special[0], extra_special_tokens=special[1:])
    hears = WhisperFeatureExtractor(8, RATE, hop_length=80, chunk_length=1, n_fft=200)
    WhisperProcessor(hears, words).save_pretrained(folder("whisper"))
    torch.manual_seed(0)
    of_side = {"layers": 1, "attention_heads": 2, "ffn_dim": 64}
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in of_side.items()}
    ends = dict.fromkeys(("bos_token_id", "pad_token_id", "eos_token_id"), ids[special[0]])
    config = WhisperConfig(
        vocab_size=len(ids), num_mel_bins=8, d_model=64, max_source_positions=50, max_target_positions=16,
        init_std=0.1, decoder_start_token_id=ids[special[1]], begin_suppress_tokens=None, **sizes, **ends,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids[special[1]], is_multilingual=True, no_timestamps_token_id=ids[special[-1]],
        lang_to_id={token: ids[token] for token in special[2:4]},
        task_to_id={token.strip("<|>"): ids[token] for token in special[4:6]}, return_timestamps=False, **ends,
    )  # fmt: skip
    model.save_pretrained(folder("whisper"))
    return folder("whisper")


def speech(word: str, number: int, rate: int = RATE) -> np.ndarray:
    """A tone a letter, with a little silence between them."""
    tones = {name[0]: hertz for name, hertz in TONES.items()}
    pause = np.zeros(int(0.03 * rate), np.float32)
    return np.concatenate([part for letter in word for part in (sound(tones[letter], number, 0.12, rate), pause)])


@cache
def transcribed() -> Path:
    """An audio folder with a table of transcripts: 24 files to train on and 6 to score."""
    made = folder("transcribed")
    for split, count in (("train", 24), ("validation", 6)):
        (made / split).mkdir(parents=True, exist_ok=True)
        words = ["".join("lmh"[at // 3**place % 3] for place in range(1 + at % 3)) for at in range(count)]
        for at, word in enumerate(words):
            soundfile.write(made / split / f"{at}.wav", speech(word, at + 100 * (split != "train")), RATE)
        lines = "".join(f"{at}.wav,{word}\n" for at, word in enumerate(words))
        (made / split / "metadata.csv").write_text(f"file_name,text\n{lines}")
    return made


def transcribe(*more: str, path: Path | None = None) -> list[str]:
    """A recipe on the command line: the letters of tones."""
    return ["task=speech_recognition", f"model.path={ctc()}", "task.freeze_feature_encoder=false",
            *_learned(path, 150), *more]  # fmt: skip


def write(*more: str, path: Path | None = None) -> list[str]:
    """A recipe on the command line: the same with Whisper."""
    return ["task=speech_seq2seq", f"model.path={whisper()}", "task.language=english",
            "task.max_duration_in_seconds=1", *_learned(path, 120), *more]  # fmt: skip


def _learned(path: Path | None, steps: int) -> list[str]:
    trainer = ("per_device_train_batch_size=4", "learning_rate=2e-3", f"max_steps={steps}", "save_strategy=no")
    return [f"dataset.path={path or transcribed()}", "precision=fp32", f"output_dir={root() / 'runs'}",
            *(f"trainer.{each}" for each in trainer)]  # fmt: skip
