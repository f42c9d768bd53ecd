# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Messages for people. All of them go to standard error.

say() { printf '%s\n' "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

# die_log LOG MESSAGE...: print the last lines of a log, then the message with its path, and end.
die_log() {
	local log=$1
	shift
	[ ! -s "$log" ] || tail -n 15 "$log" |
		sed 's/\x1b[^a-zA-Z]*[a-zA-Z]//g; s/^/  | /; s/\r//' >&2
	die "$*; the whole log is $log"
}

# redraws: is progress one line of a terminal, drawn again and again?
redraws() { [ -t 2 ] && [ -z "${AT_ONCE:-}" ]; }

# watch_step SHELL MESSAGE PROGRESS: print progress as long as SHELL lives.
watch_step() {
	local start=$SECONDS now progress
	while kill -0 "$1" 2> /dev/null; do
		sleep 1
		now=$((SECONDS - start))
		if redraws; then
			progress=$([ "$3" = - ] || "$3")
			printf '\r\033[K%-58s %4d s  %s' "$2" $now "$progress" >&2
		elif [ $now != 0 ] && [ $((now % 15)) = 0 ]; then
			progress=$([ "$3" = - ] || "$3")
			printf '  %s: %safter %d s\n' "$2" "${progress:+$progress }" $now >&2
		fi
	done
}

# step MESSAGE PROGRESS COMMAND...: run the command, and print a line with the time that it took.
# PROGRESS is a function that prints the command's progress, or - for none. A terminal shows it
# every second; a log, or one of several steps at once, every 15 seconds.
step() {
	local message=$1 progress=$2 start=$SECONDS shell=$BASHPID watcher rc
	shift 2
	redraws || printf '%s ...\n' "$message" >&2
	# The command runs in the foreground, so that Ctrl-C ends it.
	watch_step "$shell" "$message" "$progress" >&2 &
	watcher=$!
	# In a condition, a failure does not end the shell: return it.
	"$@" >&2
	rc=$?
	kill $watcher 2> /dev/null || :
	wait $watcher 2> /dev/null || :
	! redraws || printf '\r\033[K' >&2
	[ $rc = 0 ] || return $rc
	printf '%-58s %4d s\n' "$message" $((SECONDS - start)) >&2
}

# cpu_seconds FILE: of all children of a shell, as its builtin times printed them to FILE.
cpu_seconds() {
	awk 'NR == 2 {
		split($1 "m" $2, t, /[ms]+/)
		printf "%.0f\n", 60 * (t[1] + t[3]) + t[2] + t[4]
	}' "$1"
}

# at_once COMMAND...: run lines of shell at the same time, each in a process group of its own. If
# one fails, or a signal ends this shell, the others end too. Only their messages are printed.
at_once() (
	declare -A running=()
	trap 'for pid in "${!running[@]}"; do kill -- "-$pid" 2> /dev/null || :; done' EXIT
	trap 'exit 130' INT TERM
	AT_ONCE=1
	set -m
	for command; do
		eval "$command" < /dev/null > /dev/null &
		running[$!]=1
	done
	set +m
	while [ ${#running[@]} -gt 0 ]; do
		wait -n -p pid "${!running[@]}" || exit 1
		unset "running[$pid]"
	done
)
