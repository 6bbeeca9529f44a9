// Package schema says what values of signed state may look like: JSON Schema (draft
// 2020-12) for the key spaces that operators own.
//
// A schema travels in a policy record, in a file of its own below schemas/:
//
//	{
//	  "kind": "x-order",              the kind of its keys, x-<something>
//	  "prefix": "eu-",                of their names; absent or empty: every name of the kind
//	  "version": 3,                   for people, from 1; shown wherever a value is judged
//	  "since": "2026-11-21T00:00:00Z", absent: judges whatever arrives
//	  "classes": ["gdpr"],            data classes of the values, for policy of kind replicate
//	  "schema": {"type": "object", "required": ["price"]}
//	}
//
// A key is /<owner path>/<kind>/<name>. Of the schemas of one Set that match a key the one
// with the longest prefix judges its value. A value written before since, by its owner's
// clock, is not judged: it stays wherever it is and is shown as not matching, on the nodes
// that have it and on those that join later alike.
//
// # What a schema may say
//
// A closed part of the draft, so that a misspelt keyword is a mistake and not a rule that is
// off: Keywords lists it. $ref names an entry of $defs at the top of the same schema, and no
// chain of references comes back to where it began. There is no $id, no anchor and nothing
// dynamic, so nothing outside the file is ever looked for. format is asserted, for the names
// in Formats. Patterns are RE2.
//
// # What always holds
//
// A document is at most MaxFile bytes, MaxDepth deep and MaxNodes values; a number has at most
// 64 characters and an exponent below 400 (the library counts in fractions of any size). With
// all references written out a schema has at most MaxCost places, and a pattern counts for its
// length. As nothing refers to itself, each place visits each part of a value at most once, and
// the product of both is at most MaxWork. A key that an object has twice is refused.
//
// Package schema reads no file and opens no socket. What a refused value leads to is the
// caller's: it should convict nobody, because the mistake may be the schema's.
package schema
