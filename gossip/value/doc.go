// Package value gives a name that many owners write one value.
//
// A key has one owner, and nobody else writes it. A name, <kind>/<name>, is shared when
// several owners have a key that ends in it. Each owner's value is its part; the value of the
// name is computed by whoever reads it, from the parts that it holds. Nobody coordinates, and
// nothing is merged on the way: a part is signed, relayed and judged like any other value.
//
// # Parts
//
// A part is a JSON object with one member, which names its type, at most MaxPart bytes:
//
//	{"register": <any JSON>}
//	{"counter": {"inc": 5, "dec": 2}}
//	{"set": {"add": {"<element>": <when>}, "removed": {"<element>": {"<owner>": <when>}}}}
//	{"map": {"<field>": {"at": <when>, "value": <any JSON>}, "<field>": {"at": <when>}}}
//
// <when> is microseconds since 1970 by its writer's clock, below 2^53, and grows with each
// change that one owner makes; <owner> is a path, /node/n1. inc and dec are below 2^53 and only
// grow. A set or map has at most MaxEntries entries, an element at most MaxElement bytes. An
// element of removed says which add of which owner was seen and is meant; a field without
// a value is one that was unset.
//
// # What a name is worth
//
//	register  the part that is greatest by (rank, time of its record, owner, epoch, seq)
//	counter   the sum of all inc less the sum of all dec; it stops at the ends of int64
//	set       the elements e that an owner o added when no part's removed[e][o] is as late: an
//	          add that the remover had not seen stays
//	map       each field like a register, by (rank, at, owner), unless that one is unset
//
// rank is the reader's, of the owner: 1 for the region's master of record, else 0. A record's
// time is bounded by what its receivers take for the future, so no part reaches far beyond its
// own record: a <when> counts as at most a second after it. Who changes what it has seen names a
// later time than that has, so that a clock somewhat ahead does not win against what came after.
//
// # What always holds
//
// The state of a name is the newest part of each owner, by (epoch, seq). Join takes the newer of
// two states owner by owner. It is commutative, associative and idempotent, no join loses
// what either side had (tested), and Read depends on the state only. So readers that hold the
// same records read the same value, in whatever order these came.
//
// An owner that deletes its key takes its part back: its additions, its counts and its
// removals. Removals of others' elements stay in a part for as long as it lives, because a reader
// may hold it and not yet the other's newer one.
//
// Package value is pure. Which parts count, those of an expired or quarantined owner too, is for
// its caller to say.
package value
