package main

import (
	"errors"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// countEntries is machine.sync for a row about the server: it reads no more of an
// answer than it needs to go on, for decoding 1,000 entries would cost more than
// the server's work.
func countEntries(on *lean) (n int, err error) {
	mask := &types.EntryMask{SpiffeId: true, Selectors: true, RevisionNumber: true, X509SvidTtl: true, JwtSvidTtl: true, Hint: true}
	ask, err := proto.Marshal(&entryv1.SyncAuthorizedEntriesRequest{OutputMask: mask})
	if err != nil {
		return 0, err
	}
	on.begin(entryv1.Entry_SyncAuthorizedEntries_FullMethodName)
	for need := [][]byte{ask}; len(need) > 0 && err == nil; need = need[1:] { // a request for each page of revisions
		if err = on.send(need[0], false); err != nil {
			return n, err
		}
		for p := (page{more: true}); p.more; {
			b, err := on.receive()
			if err != nil {
				return n, err
			}
			if p, err = parsePage(b); err != nil {
				return n, err
			}
			n += p.entries
			if len(p.ids) > 0 {
				need = append(need, p.ids)
			}
		}
	}
	return n, on.finish()
}

// page is a SyncAuthorizedEntriesResponse.
type page struct {
	entries int
	ids     []byte // of the revisions, as a SyncAuthorizedEntriesRequest
	more    bool
}

var errPage = errors.New("not a page of entries")

func parsePage(b []byte) (p page, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return p, errPage
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return p, errPage
		}
		value := b[:n]
		b = b[n:]
		switch num {
		case 2: // entries
			p.entries++
		case 1: // entry_revisions
			message, _ := protowire.ConsumeBytes(value)
			num, _, n := protowire.ConsumeTag(message)
			if n < 0 || num != 1 {
				return p, errPage
			}
			id, n := protowire.ConsumeBytes(message[n:])
			if n < 0 {
				return p, errPage
			}
			p.ids = protowire.AppendBytes(protowire.AppendTag(p.ids, 2, protowire.BytesType), id)
		case 3: // more
			p.more = value[0] != 0
		}
	}
	return p, nil
}
