package main

import (
	"context"
	"errors"
	"fmt"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// countEntries is machine.sync for a row about the server: it reads no more of an
// answer than it needs to go on, for decoding 1,000 entries would cost more than
// the server's work.
func countEntries(ctx context.Context, conn *grpc.ClientConn) (n int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		entryv1.Entry_SyncAuthorizedEntries_FullMethodName, grpc.ForceCodec(bare{}))
	if err != nil {
		return 0, err
	}
	mask := &types.EntryMask{SpiffeId: true, Selectors: true, RevisionNumber: true, X509SvidTtl: true, JwtSvidTtl: true, Hint: true}
	if err := stream.SendMsg(&entryv1.SyncAuthorizedEntriesRequest{OutputMask: mask}); err != nil {
		return 0, err
	}
	pages := func() (need []string, err error) {
		for p := (page{more: true}); p.more; {
			var b []byte
			if err := stream.RecvMsg(&b); err != nil {
				return nil, err
			}
			if p, err = parsePage(b); err != nil {
				return nil, err
			}
			n += p.entries
			need = append(need, p.revisions...)
		}
		return need, nil
	}
	need, err := pages()
	for len(need) > 0 && err == nil {
		page := need[:min(len(need), 500)]
		need = need[len(page):]
		if err = stream.SendMsg(&entryv1.SyncAuthorizedEntriesRequest{Ids: page}); err == nil {
			_, err = pages()
		}
	}
	return n, errors.Join(err, stream.CloseSend())
}

// page is a SyncAuthorizedEntriesResponse.
type page struct {
	entries   int
	revisions []string // entry IDs
	more      bool
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
			id, n := protowire.ConsumeString(message[n:])
			if n < 0 {
				return p, errPage
			}
			p.revisions = append(p.revisions, id)
		case 3: // more
			p.more = value[0] != 0
		}
	}
	return p, nil
}

// bare is gRPC's codec, but for answers, which it leaves as they are.
type bare struct{}

func (bare) Name() string { return "proto" }

func (bare) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }

func (bare) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%w: %T", errPage, v)
	}
	*b = append([]byte(nil), data...)
	return nil
}
