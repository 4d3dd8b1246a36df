"""The makers of checkpoints: geometries, and what their tokenizers and configurations say."""

import pytest
from make_checkpoint import GEOMETRIES, make_config, make_tokenizer


def test_7b_geometry_has_the_sizes_and_token_ids_of_the_published_checkpoint():
    config = make_config("7b")

    text, tower = config.text_config, config.vision_config
    assert (text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (4096, 11008, 32)
    assert (text.num_attention_heads, text.vocab_size, text.max_position_embeddings) == (32, 32064, 4096)
    assert (tower.hidden_size, tower.intermediate_size, tower.num_hidden_layers) == (1024, 4096, 24)
    assert (tower.num_attention_heads, tower.image_size, tower.patch_size) == (16, 224, 14)
    assert (config.image_token_id, config.video_token_id, text.pad_token_id) == (32000, 32001, 32002)
    assert (config.image_seq_length, config.video_seq_length, config.vision_feature_layer) == (256, 2056, -2)


@pytest.mark.parametrize("geometry", list(GEOMETRIES))
def test_every_tokenizer_gives_back_the_text_that_it_took(geometry):
    tokenizer = make_tokenizer(geometry)

    ids = tokenizer("What moves, größer als 世界? 🎬").input_ids

    assert tokenizer.decode(ids, skip_special_tokens=True) == "What moves, größer als 世界? 🎬"
    assert len(tokenizer) <= make_config(geometry).text_config.vocab_size
