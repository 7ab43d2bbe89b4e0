#!/usr/bin/env bash
# The study, from nothing to its figures and tables; what has a result in recipes/study/results is not run again:
#
#   bash recipes/study/run.sh
#
# docs/study has the commands of its single runs and cells, a minute or a few each.
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/environment.sh study
export VERL_PLATFORM=cpu OMP_NUM_THREADS=1

# Does it train better? One run by main_ppo, too. Of other tasks: python -m recipes.study.sweep TASK.
python -m recipes.study.sweep chains legs chains-14
[ -e recipes/study/results/main_ppo/legs-grail-0.json ] ||
    python -m recipes.study.main_ppo legs grail --lr 3e-4 --seed 0

# A language model, too, which has imitated worked solutions for 30 steps, then for 60 more.
source recipes/smollm2/policy.sh
words=outputs/study/word_problems
[ -e $words/imitated ] || python -m recipes.study.imitate word_problems outputs/smollm2/policy $words/imitated --steps 30
[ -e $words/policy ] || python -m recipes.study.imitate word_problems $words/imitated $words/policy --steps 60
trained() {
    [ -e "recipes/study/results/runs/word_problems/grail-$1.json" ] ||
        python -m recipes.study.train word_problems grail --lr "$1" --seed 0 --policy "$2" \
            --out "recipes/study/results/runs/word_problems/grail-$1.json"
}
trained 3e-5 $words/grail
trained 5e-6 $words/grail-5e-6
python -m recipes.study.curves
python -m recipes.study.headroom

# Does the credit land on what matters? Of policies before and after reinforcement learning.
for run in "chains 4e-4" "legs 3e-4"; do
    read -r task rate <<< "$run"
    [ -e "outputs/study/$task/grail" ] ||
        python -m recipes.study.train "$task" grail --lr "$rate" --seed 0 --out "outputs/study/$task/grail.json" \
            --policy "outputs/study/$task/grail"
done
python -m recipes.study.credit_cells
python -m recipes.study.figures_credit

# Credit carried back by hops: variants, and a language model as it is, after imitation, after reinforcement learning.
hops() {
    [ -e "recipes/study/results/hops/$1.json" ] ||
        python -m recipes.study.hop_variants "$2" "$3" "recipes/study/results/hops/$1.json" "${@:4}"
}
hops chains-96-rl chains outputs/study/chains/grail
hops chains-96-imitation chains outputs/study/chains/policy
hops smollm2 word_problems outputs/smollm2/policy --responses 24 --variants hops log-odds content first middle last
hops smollm2-imitated word_problems $words/imitated --responses 24 --variants hops
hops smollm2-imitated-90 word_problems $words/policy --responses 24 --variants hops
hops smollm2-rl word_problems $words/grail --responses 24 --variants hops
hops smollm2-rl-5e-6 word_problems $words/grail-5e-6 --responses 24 --variants hops
python -m recipes.study.figures_hops
