# The folder of a run:  source recipes/run_folder.sh outputs/quickstart/grail "$@"
#
# One folder holds one run. Started again with the same arguments, an unfinished run goes on (verl finds its
# checkpoint) and a finished one is only drawn again; other arguments are refused here rather than mixed in, unless the
# run never got to its first metrics: a mistyped command can be corrected.
# So are overrides that would end without a curve: loggers without `file`, and a preset without the recipe's own `cpu`.
# Every start has its own metrics file, because verl's file logger empties the one that it is given.
# At its end a recipe touches `finished` in the folder.

folder=$1
shift
for override in "$@"; do
    case $override in
        *trainer.logger=*file*) ;;
        *trainer.logger=*)
            echo "$override is not allowed, since the curve is drawn from verl's file logger;" \
                "allowed: file among them, as in '[console,file,tensorboard]'" >&2
            exit 1
            ;;
        +grail=*cpu_veomni*)
            echo "$override is not allowed: it stands in place of +grail=cpu, which this recipe gives;" \
                "allowed: python -m verl.trainer.main_ppo +grail=cpu_veomni with overrides of your own" >&2
            exit 1
            ;;
        +grail=[!\[]*)
            echo "$override is not allowed beside this recipe's own +grail=cpu;" \
                "name both: '+grail=[cpu,${override#*=}]'" >&2
            exit 1
            ;;
    esac
done
mkdir -p "$folder/metrics"
if [ -n "$(ls "$folder/metrics")" ] && [ -e "$folder/arguments" ] && [ "$(cat "$folder/arguments")" != "$*" ]; then
    echo "$folder holds a run with other arguments: $(cat "$folder/arguments")" >&2
    echo "Name another folder in front of the command, RUN=..., or remove this one." >&2
    exit 1
fi
echo "$*" > "$folder/arguments"
if [ -e "$folder/finished" ]; then
    echo "This run is finished. Remove $folder to start it over."
    python -m recipes.quickstart.plot "$folder"
    exit
fi
export VERL_FILE_LOGGER_PATH="$folder/metrics/$(date +%Y%m%d-%H%M%S).jsonl"
