"""Tiny models of text: encoders, decoders, state spaces, and both together."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.health.tiny.batches import CLASSES, Tiny, V, denoised, ids, language, pairs, tokens

__all__ = ["TEXT"]

BASE: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
GROUPED = BASE | {"num_key_value_heads": 2}
TWO = BASE | {"num_hidden_layers": 2}
BOTH: dict[str, Any] = {
    "vocab_size": V,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 0,
}
T5: dict[str, Any] = {
    "vocab_size": V,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


def regressed(model: Any, batch: torch.Tensor) -> Any:
    """Squared error of the first position of an encoder without a head."""
    return model(batch).last_hidden_state[:, 0].sub(1).square().mean()


ENCODERS: dict[str, Tiny] = {
    "bert": Tiny(name="BertForMaskedLM", settings=BASE, batch=language),
    "bert_masked": Tiny(name="BertForMaskedLM", settings=BASE, batch=denoised),
    "bert_pooler": Tiny(name="BertModel", settings=BASE, batch=ids, loss=regressed),
    "bert_classifier": Tiny(name="BertForSequenceClassification", settings=BASE | {"num_labels": CLASSES}, batch=tokens),
    "roberta": Tiny(
        name="RobertaForSequenceClassification",
        settings=BASE | {"num_labels": CLASSES, "max_position_embeddings": 64},
        batch=tokens,
    ),
    "albert": Tiny(name="AlbertForMaskedLM", settings=BASE | {"embedding_size": 16}, batch=denoised),
    "deberta": Tiny(
        name="DebertaV2ForSequenceClassification",
        settings=TWO | {"num_labels": CLASSES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        batch=tokens,
    ),
    "deberta_v1": Tiny(
        name="DebertaForSequenceClassification",
        settings=TWO | {"num_labels": CLASSES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        batch=tokens,
    ),
    "electra": Tiny(
        name="ElectraForPreTraining",
        settings=BASE | {"embedding_size": 16},
        batch=lambda: {"input_ids": ids(), "labels": torch.randint(0, 2, (4, 16))},
    ),
    "distilbert": Tiny(
        name="DistilBertForMaskedLM",
        settings={"vocab_size": V, "dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4},
        batch=denoised,
    ),
    "mpnet": Tiny(name="MPNetForMaskedLM", settings=BASE, batch=denoised),
    "xlnet": Tiny(
        name="XLNetForSequenceClassification",
        settings={"vocab_size": V, "d_model": 32, "d_inner": 64, "n_layer": 2, "n_head": 4, "num_labels": CLASSES},
        batch=tokens,
    ),
    "funnel": Tiny(
        name="FunnelForMaskedLM",
        settings={
            "vocab_size": V,
            "d_model": 32,
            "d_head": 8,
            "d_inner": 64,
            "n_head": 4,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
        batch=denoised,
    ),
    "fnet": Tiny(name="FNetForMaskedLM", settings=BASE, batch=denoised),
    "longformer": Tiny(name="LongformerForMaskedLM", settings=TWO | {"attention_window": 8}, batch=denoised),
    "bigbird": Tiny(name="BigBirdForMaskedLM", settings=TWO | {"attention_type": "original_full"}, batch=denoised),
    "convbert": Tiny(name="ConvBertForMaskedLM", settings=TWO | {"embedding_size": 32, "conv_kernel_size": 3}, batch=denoised),
    "modernbert": Tiny(name="ModernBertForMaskedLM", settings=TWO | {"pad_token_id": 0}, batch=denoised),
    "esm": Tiny(
        name="EsmForMaskedLM",
        settings=TWO | {"pad_token_id": 0, "mask_token_id": 1, "position_embedding_type": "rotary"},
        batch=denoised,
    ),
}

DECODERS: dict[str, Tiny] = {
    "gpt2": Tiny(
        name="GPT2LMHeadModel",
        settings={"vocab_size": V, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4},
        batch=language,
    ),
    "gptneo": Tiny(
        name="GPTNeoForCausalLM",
        settings={
            "vocab_size": V,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 64,
        },
        batch=language,
    ),
    "gptj": Tiny(
        name="GPTJForCausalLM",
        settings={"vocab_size": V, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
        batch=language,
    ),
    "gptneox": Tiny(name="GPTNeoXForCausalLM", settings=BASE, batch=language),
    "opt": Tiny(
        name="OPTForCausalLM",
        settings=BASE | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
        batch=language,
    ),
    "bloom": Tiny(
        name="BloomForCausalLM", settings={"vocab_size": V, "hidden_size": 32, "n_layer": 2, "n_head": 4}, batch=language
    ),
    "llama": Tiny(name="LlamaForCausalLM", settings=GROUPED, batch=language),
    "mistral": Tiny(name="MistralForCausalLM", settings=GROUPED | {"sliding_window": 8}, batch=language),
    "qwen2": Tiny(name="Qwen2ForCausalLM", settings=GROUPED, batch=language),
    "qwen3": Tiny(name="Qwen3ForCausalLM", settings=GROUPED | {"head_dim": 8}, batch=language),
    "gemma": Tiny(name="GemmaForCausalLM", settings=GROUPED | {"head_dim": 8}, batch=language),
    "gemma2": Tiny(name="Gemma2ForCausalLM", settings=GROUPED | {"head_dim": 8, "sliding_window": 8}, batch=language),
    "phi": Tiny(name="PhiForCausalLM", settings=BASE, batch=language),
    "falcon": Tiny(name="FalconForCausalLM", settings=TWO, batch=language),
    "mpt": Tiny(
        name="MptForCausalLM",
        settings={"vocab_size": V, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 32, "expansion_ratio": 2},
        batch=language,
    ),
    "stablelm": Tiny(name="StableLmForCausalLM", settings=GROUPED, batch=language),
    "cohere": Tiny(name="CohereForCausalLM", settings=TWO | {"pad_token_id": 0}, batch=language),
    "granite": Tiny(name="GraniteForCausalLM", settings=GROUPED, batch=language),
    "olmo2": Tiny(name="Olmo2ForCausalLM", settings=TWO, batch=language),
    "mixtral": Tiny(
        name="MixtralForCausalLM", settings=GROUPED | {"num_hidden_layers": 2, "num_local_experts": 4}, batch=language
    ),
    "deepseek": Tiny(
        name="DeepseekV3ForCausalLM",
        settings=TWO
        | {
            "moe_intermediate_size": 16,
            "num_key_value_heads": 4,
            "n_shared_experts": 1,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
        batch=language,
    ),
    "ctrl": Tiny(
        name="CTRLLMHeadModel",
        settings={"vocab_size": V, "n_positions": 32, "n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4},
        batch=language,
    ),
    "mamba": Tiny(
        name="MambaForCausalLM",
        settings={"vocab_size": V, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 3},
        batch=language,
    ),
    "mamba2": Tiny(
        name="Mamba2ForCausalLM",
        settings={
            "vocab_size": V,
            "hidden_size": 32,
            "state_size": 8,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 8,
        },
        batch=language,
    ),
    "rwkv": Tiny(
        name="RwkvForCausalLM",
        settings={
            "vocab_size": V,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "attention_hidden_size": 32,
            "context_length": 32,
        },
        batch=language,
    ),
    "recurrentgemma": Tiny(
        name="RecurrentGemmaForCausalLM",
        settings=BASE | {"num_key_value_heads": 1, "attention_window_size": 8, "lru_width": 32},
        batch=language,
    ),
    "jamba": Tiny(
        name="JambaForCausalLM",
        settings=GROUPED
        | {
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        batch=language,
    ),
}

SEQUENCES: dict[str, Tiny] = {
    "t5": Tiny(name="T5ForConditionalGeneration", settings=T5, batch=language),
    "umt5": Tiny(name="UMT5ForConditionalGeneration", settings=T5 | {"feed_forward_proj": "gated-gelu"}, batch=pairs),
    "switch": Tiny(
        name="SwitchTransformersForConditionalGeneration",
        settings=T5 | {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        batch=pairs,
    ),
    "bart": Tiny(name="BartForConditionalGeneration", settings=BOTH, batch=language),
    "pegasus": Tiny(name="PegasusForConditionalGeneration", settings=BOTH, batch=pairs),
    "mbart": Tiny(name="MBartForConditionalGeneration", settings=BOTH, batch=pairs),
    "m2m100": Tiny(name="M2M100ForConditionalGeneration", settings=BOTH, batch=pairs),
    "led": Tiny(
        name="LEDForConditionalGeneration",
        settings=BOTH | {"attention_window": 8, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64},
        batch=pairs,
    ),
}

TEXT: dict[str, Tiny] = ENCODERS | DECODERS | SEQUENCES
