// Package policy turns one Input into one Decision, always.
//
// Policy is written in Rego at up to three levels: global, regional and local. Every level has a
// compiler and an immutable store of its own, so that a broken, slow or hostile level can neither
// re-evaluate nor shadow another. The levels are combined here, in Go:
//
//	verdict(level) = missing | expired | error | deny(ids) | allow(ids) | pass
//
//	ALLOW if the input is a control call (see ControlCalls, RepairCalls) and global does not deny it
//	DENY  if a required level is missing or expired, or any level is in error
//	DENY  if any level denies
//	ALLOW if a level allows and its Delegation covers the input (but see Level.Stale)
//	DENY  otherwise
//
// What always holds:
//
//   - Nothing at a lower level turns a DENY into an ALLOW outside its Delegation (fuzzed).
//   - The zero Decision denies; so do the zero Engine, a panic, a passed deadline, an input that is
//     too large where rules read it, one whose facts have ended (Time.Until), and one of an unknown
//     version or kind.
//   - Expiry takes away a level's power to allow, never its power to deny.
//   - An optional level that is in error denies. Being optional means it may be absent.
//   - A generation (the set of active levels) is built aside and swapped atomically. When building
//     fails, the generation in force stays.
//   - The answer depends on the Input and the generation only: modules have no clock, no random
//     numbers and no network. A recorded Input gives the same answer under the same generation.
//
// # Answers that are remembered
//
// Rules see the view of an input: the parts that any rule of the generation for its kind can read,
// as the compiled rules say, and what is looked at here, the standing of those involved among it.
// The view, which levels have ended, and whether their authority is in reach are the key under which
// a generation remembers its answer; so an answer that is remembered cannot differ from one that is
// evaluated (fuzzed). It ends with its generation, with its levels, and with the facts it rests on, and it is not kept at all where
// a level failed, where the key exceeds 512 bytes, or where rules read a map that is neither of
// strings nor of levels. A rule that reads a whole peer, or an age in seconds, makes many keys.
//
// Engine.Decide gives a decision of its own for each question, remembered or not, for whoever
// records it. Engine.Recall gives the remembered one as it is, which costs no allocation.
//
// # How OPA is used
//
// As a library: modules are read and compiled by v1/ast, levels are asked through v1/rego (one PreparedEvalQuery
// for each kind), and OPA's own bundles are read and written by v1/bundle. Never its server, SDK, runtime or
// plugins, which bring an HTTP control plane, and data that is written while it serves. What those three ask of
// whoever uses them, and what the tools of authors are made of, comes with them, and nothing else (TestArrows):
//
//	v1/ast                     parses, compiles and checks modules; inputs and answers are its terms
//	v1/rego                    asks: decisions, explanations, the terms of a test that failed
//	v1/bundle                  OPA's own bundles, in and out (package opabundle only)
//
//	v1/storage, storage/inmem  what v1/rego reads a level's data from
//	v1/topdown                 the types of v1/rego's options: what ends an evaluation, what traces it, what it remembers
//	v1/metrics                 its NoOp, so that v1/rego keeps no times
//	v1/util                    reads data with numbers as they are written
//	v1/types                   tells a function that is not called from other errors of types
//	v1/tester, v1/cover        the tests of authors, and what they reach
//	v1/format                  the one layout
//
// A decision of the reference policy of 200 rules takes 258 allocations. Asking v1/topdown itself would save 39
// of them: v1/rego copies each answer into a result set, and makes a new query each time. That is not worth a
// way of our own around it. The cache of rule values is ours (ruleCache), and saves 75.
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
//	thresholds["some-id"] := { ... }       quarantine only: the Thresholds of the allow of that id
//
// A grant is {prefix, scope, bytes, rate, kinds}, the last of which may be absent; another field is
// an error. state_admit is asked once for an origin and generation, and answers with the grants of
// all allows that hold: what of its changes is let through is then counted in Go (package
// admission). So there is no single change in input. A module that asks for input.update, as those
// of before did, is refused when it is loaded.
//
// Thresholds are {hold_seconds, hold_max_seconds, mild_faults, cap_percent, cap_proven_percent,
// observers, quorum_percent, accusations}, whole numbers, and {suspect_open}, kinds of keys, each of which may be absent. Of several levels the lowest that allows and may
// gives them; whoever asks keeps to its own where the decision is a denial, and opens nothing.
//
// The input of each kind is closed (KindSchema; docs/policy/inputs.md): a rule, also of a library,
// that reads a field which a kind it decides does not have is refused when it is loaded.
//
// A reference to a rule or package of the level that nobody wrote is refused too: it would be undefined for
// ever.
//
// An id is a constant, belongs to one rule only, and carries METADATA with a title and
// labels.owner (the package's METADATA may give the owner for all its rules); other labels that are
// strings go with every decision that it makes. A rule that none of
// these reaches is refused: it is a misspelt deny. The level's data.json is the root of data.
// Files named *_test.rego hold tests, in packages named *_test, and are never part of a decision.
// Files schemas/*.json say what values of state may look like (package schema); Engine.Fits asks
// them. They are compiled with the modules, once per content, and a level with a schema that does
// not compile is not activated. A schema judges what is new: it looks through no state, and
// convicts nobody.
//
// # What is written down
//
// The package bailiwick.<level>.log says how decisions are recorded (package decision). Its input is
// that of the decision. Every level may have one; what any of them hides is hidden.
//
//	mask contains "/input/source/labels" if { ... }                              taken out
//	mask contains {"op": "upsert", "path": "/input/...", "value": "***"} if ...  replaced
//	sample := 10 if { ... }    keep every tenth allow of a sort whole; all are counted
//
// Paths are JSON pointers, as in OPA's data.system.log.mask. Engine.Recording asks the rules.
//
// # Sandbox
//
// Built-in functions are allowed by name (Builtins). Patterns of regex.match and glob.match are
// constants, and compile to at most MaxProgram instructions. The with keyword is for tests only.
// Sources, data, rules and inputs have size limits.
//
// A level has MaxSteps for one decision. A step is one expression that is tried; a function whose
// work grows with its arguments is charged for them before it runs, because functions look at no
// deadline. One step takes at most as long as looking at all of data once (MaxValues). A level that
// needs more is in error, on every machine alike. It is measured before it is activated, on the
// inputs that its tests name and on the largest that the schema lets through, with the constants
// that its rules compare with (Costs); not again when a node starts (Level.Measured).
//
// A generation is on probation for its first 1,000 sound answers, ten minutes at most. Where most of
// its evaluations take too many steps or panic, most callers get nothing else, and so does this node
// when it asks the same of itself, without what callers choose, where the generation before answers, that one
// comes back (Config.OnRevert), with the stale modes of now, and the other is refused
// (ErrReverted). Any other failure only denies: no single caller brings an older policy back, nor does
// a busy machine. Nor do the callers of one service, for which a policy fails whoever asks: they would take
// back what it denies at all others, a revocation among it. Of the different services, actions and calls
// that this node was asked for since it started, eight at most, more than half has to fail, asked by the node itself;
// a service that is less than that stays denied until its author mends it. Another stale mode for the same contents is no new generation to try.
//
// Package policy reads no file, opens no socket and keeps no record of its decisions: see its
// sub-packages bundle, schema, admission, decision and builtin.
package policy
