#!/bin/sh
# Writes the man page: man.sh PROGRAM >orkestr-emulator.1
# What the program's own --help says is taken from there, command by command, so the two can't drift apart; the rest
# is in tail.1. Which commands there are is in the help, too: see completion/orkestr-emulator.bash.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
program=$1
version=$("$program" version | awk '{ print $2; exit }')

# A command's parts: lines of a list in its own help ("  list   what is here"), or of its usage, as in
# "Usage: orkestr-emulator network allowlist".
parts() {
	"$program" "$1" --help | awk -v command="$1" '
		/^(Usage:|      ) orkestr-emulator / {
			sub(/^.*orkestr-emulator /, "")
			if ($1 == command && $2 == "COMMAND") listed = 1
			if ($1 == command && $2 ~ /^[a-z][a-z-]*$/) print $2
			next
		}
		listed && /^  [a-z][a-z-]* / { print $1 }' | awk '!seen[$0]++'
}

commands() {
	"$program" --help | awk '/^Usage:/ { in_usage = 1 } in_usage && /^  [a-z][a-z-]* / { print $1 } /^Examples:/ { exit }'
}

section() { # title; the help on standard input
	printf '.SS "%s"\n' "$1"
	awk -f "$here/help.awk"
}

printf '.\\" Made by man.sh from what --help says.\n.TH ORKESTR-EMULATOR 1 "" "orkestr-emulator %s" "User Commands"\n' "$version"
printf '.SH NAME\norkestr-emulator \\- the orkestr sandbox API on this machine, with real sandboxes\n'
printf '.SH SYNOPSIS\n.B orkestr-emulator\n.I COMMAND\n.RI [ OPTION ]...\n'
printf '.SH DESCRIPTION\n'
"$program" --help | awk -f "$here/help.awk"
printf '.SH COMMANDS\n'
for command in $(commands); do
	own=$("$program" "$command" --help)
	printf '%s\n' "$own" | section "orkestr-emulator $command"
	for part in $(parts "$command"); do
		help=$("$program" "$command" "$part" --help </dev/null)
		[ "$help" = "$own" ] || printf '%s\n' "$help" | section "orkestr-emulator $command $part"
	done
done
cat "$here/tail.1"
