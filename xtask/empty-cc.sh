#!/bin/sh
# A C and C++ compiler for type checks of another system: makes the file that `-o` names, empty.
previous=
for argument; do
  [ "$previous" = -o ] && : >"$argument"
  previous=$argument
done
exit 0
