package issuer

import (
	"sync"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Fields of SyncAuthorizedEntriesResponse.
const (
	revisionsField = protowire.Number(1)
	entriesField   = protowire.Number(2)
	moreField      = protowire.Number(3)
)

// maxMasks bounds what is remembered: agents of one version ask with one mask.
const maxMasks = 4

// page is a SyncAuthorizedEntriesResponse in the form it travels in.
type page []byte

// codec is gRPC's for protobuf, but for what is in that form already.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(grpcproto.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if p, ok := v.(page); ok {
		return mem.BufferSlice{mem.SliceBuffer(p)}, nil // nobody changes it
	}
	return c.CodecV2.Marshal(v)
}

// wire remembers the entries of one directory in the form they travel in: they are
// the same for all callers that ask with the same mask.
type wire struct {
	mu    sync.Mutex           // held for a look-up; guards masks
	masks map[string]*sync.Map // by mask: entry ID -> field of the page
}

// under returns what is remembered under a mask, or something to throw away.
func (w *wire) under(mask *types.EntryMask) (*sync.Map, error) {
	key := "all"
	if mask != nil {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(mask)
		if err != nil {
			return nil, err
		}
		key = "only " + string(b)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	known := w.masks[key]
	if known == nil {
		known = &sync.Map{}
		if w.masks == nil {
			w.masks = map[string]*sync.Map{}
		}
		if len(w.masks) < maxMasks {
			w.masks[key] = known
		}
	}
	return known, nil
}

// pages calls send with the entries of ids as mask shows them, with one empty page
// if there are none.
func (d *directory) pages(ids []string, mask *types.EntryMask, send func(page) error) error {
	known, err := d.wire.under(mask)
	if err != nil {
		return err
	}
	return paged(ids, func(out page, id string) (page, error) {
		field, ok := known.Load(id)
		if !ok {
			b, err := appendField(nil, entriesField, entryMessage(d.byID[id], mask))
			if err != nil {
				return nil, err
			}
			known.Store(id, b)
			field = b
		}
		return append(out, field.([]byte)...), nil
	}, send)
}

// revisionPages are the revisions of ids, in pages.
func (d *directory) revisionPages(ids []string) (out []page, err error) {
	err = paged(ids, func(out page, id string) (page, error) {
		return appendField(out, revisionsField, revision(d.byID[id]))
	}, func(p page) error {
		out = append(out, p)
		return nil
	})
	return out, err
}

func paged(ids []string, add func(page, string) (page, error), send func(page) error) error {
	for {
		n := min(pageSize, len(ids))
		out := make(page, 0, 160*n)
		var err error
		for _, id := range ids[:n] {
			if out, err = add(out, id); err != nil {
				return err
			}
		}
		if ids = ids[n:]; len(ids) > 0 {
			out = protowire.AppendVarint(protowire.AppendTag(out, moreField, protowire.VarintType), 1)
		}
		if err := send(out); err != nil || len(ids) == 0 {
			return err
		}
	}
}

func appendField(b []byte, n protowire.Number, m proto.Message) ([]byte, error) {
	b = protowire.AppendTag(b, n, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(proto.Size(m)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
}

func revision(e registered) *entryv1.EntryRevision {
	r := &entryv1.EntryRevision{Id: e.ID, RevisionNumber: e.Revision}
	if !e.Created.IsZero() {
		r.CreatedAt = e.Created.Unix()
	}
	return r
}
