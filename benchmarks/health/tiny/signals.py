"""Tiny models of sound, of several kinds of input together, and of time series."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.health.tiny.batches import CLASSES, Tiny, V, audio, ids, labelled, pictures
from benchmarks.health.tiny.vision import VIT

__all__ = ["SIGNALS"]

SPEECH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
    "mask_time_prob": 0.0,
}
CLASSIFIED = SPEECH | {"num_labels": CLASSES}
TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = TOWER | {"vocab_size": V, "max_position_embeddings": 32, "eos_token_id": 2}
VISION = TOWER | {"image_size": 32, "patch_size": 8}
SERIES: dict[str, Any] = {
    "prediction_length": 4,
    "context_length": 12,
    "lags_sequence": [1, 2],
    "num_time_features": 2,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}


def spoken() -> dict[str, Any]:
    """Sound and the letters that were said."""
    return {"input_values": torch.randn(4, 1000), "labels": torch.randint(1, 20, (4, 6))}


def captioned() -> dict[str, Any]:
    return {"input_ids": ids(), "pixel_values": pictures()(), "return_loss": True}


def described() -> dict[str, Any]:
    text = ids()
    return {"input_ids": text, "pixel_values": pictures()(), "labels": text}


def series() -> dict[str, Any]:
    """The past of a series, its future, and two features of time for each."""
    walk = torch.randn(4, 18).cumsum(1)
    return {
        "past_values": walk[:, :14],
        "past_time_features": torch.randn(4, 14, 2),
        "past_observed_mask": torch.ones(4, 14),
        "future_values": walk[:, 14:],
        "future_time_features": torch.randn(4, 4, 2),
    }


def patched() -> dict[str, Any]:
    walk = torch.randn(4, 36, 2).cumsum(1)
    return {"past_values": walk[:, :32], "future_values": walk[:, 32:]}


def rebuilt(model: Any, batch: torch.Tensor) -> Any:
    return (model(batch).audio_values - batch).square().mean()


SIGNALS: dict[str, Tiny] = {
    "wav2vec2": Tiny(name="Wav2Vec2ForSequenceClassification", settings=CLASSIFIED, batch=audio()),
    "wav2vec2_ctc": Tiny(
        name="Wav2Vec2ForCTC", settings=SPEECH | {"vocab_size": 20, "ctc_loss_reduction": "mean"}, batch=spoken
    ),
    "hubert": Tiny(name="HubertForSequenceClassification", settings=CLASSIFIED, batch=audio()),
    "wavlm": Tiny(name="WavLMForSequenceClassification", settings=CLASSIFIED, batch=audio()),
    "sew": Tiny(name="SEWForSequenceClassification", settings=CLASSIFIED | {"squeeze_factor": 2}, batch=audio()),
    "unispeech": Tiny(name="UniSpeechForSequenceClassification", settings=CLASSIFIED, batch=audio()),
    "data2vec_audio": Tiny(
        name="Data2VecAudioForSequenceClassification",
        settings=CLASSIFIED | {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
        batch=audio(),
    ),
    "whisper": Tiny(
        name="WhisperForConditionalGeneration",
        settings={
            "vocab_size": V,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 16,
            "max_source_positions": 32,
            "max_target_positions": 32,
            "decoder_start_token_id": 1,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        batch=lambda: {"input_features": torch.randn(4, 16, 64), "labels": ids()},
    ),
    "speech2text": Tiny(
        name="Speech2TextForConditionalGeneration",
        settings={
            "vocab_size": V,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "input_feat_per_channel": 16,
            "conv_channels": 32,
            "max_source_positions": 64,
            "max_target_positions": 32,
        },
        batch=lambda: {"input_features": torch.randn(4, 64, 16), "labels": ids()},
    ),
    "ast": Tiny(
        name="ASTForAudioClassification",
        settings=TOWER
        | {
            "patch_size": 8,
            "frequency_stride": 8,
            "time_stride": 8,
            "max_length": 32,
            "num_mel_bins": 16,
            "num_labels": CLASSES,
        },
        batch=lambda: {"input_values": torch.randn(4, 32, 16), "labels": labelled()},
    ),
    "encodec": Tiny(
        name="EncodecModel",
        settings={
            "hidden_size": 16,
            "num_filters": 4,
            "upsampling_ratios": [4, 2],
            "num_lstm_layers": 1,
            "codebook_size": 16,
            "codebook_dim": 16,
            "sampling_rate": 1600,
            "target_bandwidths": [1.6],
        },
        batch=lambda: torch.randn(4, 1, 320),
        loss=rebuilt,
    ),
    "clip": Tiny(
        name="CLIPModel", settings={"text_config": TEXT, "vision_config": VISION, "projection_dim": 16}, batch=captioned
    ),
    "siglip": Tiny(name="SiglipModel", settings={"text_config": TEXT, "vision_config": VISION}, batch=captioned),
    "blip": Tiny(
        name="BlipForConditionalGeneration",
        settings={
            "text_config": TEXT | {"bos_token_id": 3, "sep_token_id": 2, "pad_token_id": 0, "encoder_hidden_size": 32},
            "vision_config": VISION,
        },
        batch=described,
    ),
    "vilt": Tiny(
        name="ViltForQuestionAnswering",
        settings=VIT | {"vocab_size": V, "num_hidden_layers": 2, "max_position_embeddings": 32},
        batch=lambda: {"input_ids": ids(), "pixel_values": pictures()(), "labels": torch.rand(4, CLASSES)},
    ),
    "patchtst": Tiny(
        name="PatchTSTForPrediction",
        settings={
            "num_input_channels": 2,
            "context_length": 32,
            "patch_length": 4,
            "patch_stride": 4,
            "prediction_length": 4,
            "d_model": 16,
            "num_attention_heads": 4,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
        },
        batch=patched,
    ),
    "time_series": Tiny(name="TimeSeriesTransformerForPrediction", settings=SERIES, batch=series),
    "informer": Tiny(name="InformerForPrediction", settings=SERIES, batch=series),
    "autoformer": Tiny(
        name="AutoformerForPrediction", settings=SERIES | {"label_length": 6, "moving_average": 5}, batch=series
    ),
}
