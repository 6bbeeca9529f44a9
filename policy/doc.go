// Package policy turns one Input into one Decision, always.
//
// Policy is written in Rego at up to three levels: global, regional and local. Every level has a
// compiler and an immutable store of its own, so that a broken, slow or hostile level can neither
// re-evaluate nor shadow another. The levels are combined here, in Go:
//
//	verdict(level) = missing | expired | error | deny(ids) | allow(ids) | pass
//
//	ALLOW if the input is a control call (see ControlCalls) and global does not deny it
//	DENY  if a required level is missing or expired, or any level is in error
//	DENY  if any level denies
//	ALLOW if a level allows and its Delegation covers the input
//	DENY  otherwise
//
// What always holds:
//
//   - Nothing at a lower level turns a DENY into an ALLOW outside its Delegation (fuzzed).
//   - The zero Decision denies; so do the zero Engine, a panic, a passed deadline, an input that is
//     too large, and an input of an unknown version or kind.
//   - Expiry takes away a level's power to allow, never its power to deny.
//   - An optional level that is in error denies. Being optional means it may be absent.
//   - A generation (the set of active levels) is built aside and swapped atomically. When building
//     fails, the generation in force stays.
//   - The answer depends on the Input and the generation only: modules have no clock, no random
//     numbers and no network. A recorded Input gives the same answer under the same generation.
//
// # Modules
//
// A module imports rego.v2, in which the negation of something undefined is true; in older Rego a
// "deny if not f(input.missing)" never fires. Its package is bailiwick.<level>.<kind>, or
// bailiwick.<level>.lib for helpers. In a kind's package these rules have a meaning:
//
//	deny contains "some-id" if { ... }     any kind
//	allow contains "some-id" if { ... }    any kind
//	grant["some-id"] := { ... } if { ... } state_admit only: the Grant of the allow of that id
//
// An id is a constant, belongs to one rule only, and carries METADATA with a title and
// labels.owner (the package's METADATA may give the owner for all its rules). A rule that none of
// these reaches is refused: it is a misspelt deny. The level's data.json is the root of data.
// Files named *_test.rego hold tests, in packages named *_test, and are never part of a decision.
//
// # Sandbox
//
// Built-in functions are allowed by name (Builtins). Patterns of regex.match and glob.match are
// constants. The with keyword is for tests only. Sources, data, rules and inputs have size limits.
// A deadline ends an evaluation between two steps; no allowed built-in function runs long on an
// input of the allowed size.
//
// Package policy reads no file, opens no socket and keeps no record of its decisions: see its
// sub-packages bundle, decision and builtin.
package policy
