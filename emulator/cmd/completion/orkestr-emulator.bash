# Completion for bash. What there is to complete is asked from the program's own --help, so that it is what the installed
# version knows.

# The commands, or a command's parts ("template list"): lines of a list in the help, or words of its usage lines.
_orkestr_emulator_words() {
	"$1" "${@:2}" --help 2>/dev/null </dev/null | awk -v command="${2-}" '
		/^Usage:/ || /^       orkestr-emulator / {
			sub(/^.*orkestr-emulator /, "")
			split($0, word, " ")
			if (command == "" || (word[1] == command && word[2] == "COMMAND")) listed = 1
			else if (word[1] == command && word[2] ~ /^[a-z][a-z-]*$/) print word[2]
			next
		}
		/^Examples:/ { exit }
		listed && /^  [a-z][a-z-]* / { print $1 }'
}

_orkestr_emulator_options() {
	"$1" "${@:2}" --help 2>/dev/null </dev/null |
		awk '/^ *-/ || /^Usage:/ || /^       orkestr-emulator / { while (match($0, /(^|[ [|])--[a-z][a-z-]*/)) { s = substr($0, RSTART, RLENGTH); sub(/^[^-]*/, "", s); print s; $0 = substr($0, RSTART + RLENGTH) } }' | awk '!seen[$0]++'
}

# What an option wants, as the help writes it behind its name: "DIR", "fail|report".
_orkestr_emulator_wants() {
	local option=$2
	"$1" "${@:3}" --help 2>/dev/null </dev/null | awk -v option="$option" '
		{ for (i = 1; i < NF; i++) { w = $i; gsub(/[][,]/, "", w); if (w == option) { v = $(i + 1); gsub(/[][,]/, "", v); print v; exit } } }'
}

_orkestr_emulator() {
	local program=${COMP_WORDS[0]} current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
	local path=() i wants
	for ((i = 1; i < COMP_CWORD; i++)); do
		[[ ${COMP_WORDS[i]} == [a-z]* ]] || break
		path+=("${COMP_WORDS[i]}")
	done
	COMPREPLY=()
	if [[ $previous == --* ]]; then
		wants=$(_orkestr_emulator_wants "$program" "$previous" "${path[@]:0:2}")
		case $wants in
		DIR | FILE | PATH)
			compopt -o filenames 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -f -- "$current")
			return
			;;
		[a-z]*'|'*) mapfile -t COMPREPLY < <(compgen -W "${wants//|/ }" -- "$current"); return ;;
		[A-Z]*) return ;;
		esac
	fi
	if [[ $current == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_orkestr_emulator_options "$program" "${path[@]:0:2}")" -- "$current")
	elif ((${#path[@]} < 2)); then
		mapfile -t COMPREPLY < <(compgen -W "$(_orkestr_emulator_words "$program" "${path[@]}")" -- "$current")
	elif [[ ${path[0]} == template && ${path[1]} == rm ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$("$program" template list 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$current")
	else
		compopt -o default 2>/dev/null
	fi
}

complete -F _orkestr_emulator orkestr-emulator
