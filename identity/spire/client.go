package spire

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer/issuerv1"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// pageSize is how many entries or SVIDs one message asks for, as SPIRE's own
// agent does.
const pageSize = 500

// Client makes calls with one SVID. It may be used concurrently; Close it.
type Client struct {
	conn *connection
	svid *x509svid.SVID
}

// Dial returns a client that shows svid: an agent's, or a node's for entries
// below it. It connects when first used.
func Dial(cfg Config, svid *x509svid.SVID) (*Client, error) {
	conn, err := cfg.connect(svid)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, svid: svid}, nil
}

// Connect begins to connect before there is something to ask. An issuer takes an SVID for
// shown by a call, not by this.
func (c *Client) Connect() { c.conn.Connect() }

// Close ends the connection and calls under way.
func (c *Client) Close() error { return c.conn.Close() }

// Entry is something the caller may ask SVIDs for.
type Entry struct {
	ID        string // of the entry
	SPIFFEID  spiffeid.ID
	ParentID  spiffeid.ID
	Selectors []string // type:value
	DNSNames  []string
	Hint      string
	TTL       time.Duration // zero: the server's
	Revision  int64
	// Downstream says that an SVID of the entry may ask for a subordinate authority.
	Downstream bool
}

// Entries returns all entries the caller may ask SVIDs for. known, which may be
// nil, is an earlier answer: of more than 500 entries only those are fetched
// that are not in it.
func (c *Client) Entries(ctx context.Context, known []Entry) ([]Entry, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	stream, err := entryv1.NewEntryClient(c.conn).SyncAuthorizedEntries(ctx)
	if err != nil {
		return nil, c.conn.explain(err)
	}
	_ = stream.Send(&entryv1.SyncAuthorizedEntriesRequest{}) // if it fails, Recv says why
	var revisions []*entryv1.EntryRevision
	out, err := c.pages(stream, func(r *entryv1.SyncAuthorizedEntriesResponse) {
		revisions = append(revisions, r.GetEntryRevisions()...)
	})
	if err != nil || len(revisions) == 0 {
		return out, err
	}
	have := make(map[string]Entry, len(known))
	for _, e := range known {
		have[e.ID] = e
	}
	var missing []string
	for _, r := range revisions {
		if e, ok := have[r.GetId()]; ok && e.Revision == r.GetRevisionNumber() {
			out = append(out, e)
		} else {
			missing = append(missing, r.GetId())
		}
	}
	for len(missing) > 0 {
		n := min(pageSize, len(missing))
		_ = stream.Send(&entryv1.SyncAuthorizedEntriesRequest{Ids: missing[:n]})
		page, err := c.pages(stream, nil)
		if err != nil {
			return nil, err
		}
		out, missing = append(out, page...), missing[n:]
	}
	return out, nil
}

// pages reads one answer, to its last page.
func (c *Client) pages(stream entryv1.Entry_SyncAuthorizedEntriesClient, each func(*entryv1.SyncAuthorizedEntriesResponse)) ([]Entry, error) {
	var out []Entry
	for {
		resp, err := stream.Recv()
		if err != nil {
			return nil, c.conn.explain(err)
		}
		if each != nil {
			each(resp)
		}
		for _, m := range resp.GetEntries() {
			e, err := entry(m)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		if !resp.GetMore() {
			return out, nil
		}
	}
}

func entry(m *types.Entry) (Entry, error) {
	id, err := parseID(m.GetSpiffeId())
	if err != nil {
		return Entry{}, err
	}
	parent, err := parseID(m.GetParentId())
	if err != nil {
		return Entry{}, err
	}
	e := Entry{ID: m.GetId(), SPIFFEID: id, ParentID: parent, DNSNames: m.GetDnsNames(), Hint: m.GetHint(),
		TTL: time.Duration(m.GetX509SvidTtl()) * time.Second, Revision: m.GetRevisionNumber(), Downstream: m.GetDownstream()}
	for _, s := range m.GetSelectors() {
		e.Selectors = append(e.Selectors, s.GetType()+":"+s.GetValue())
	}
	return e, nil
}

func parseID(m *types.SPIFFEID) (spiffeid.ID, error) {
	id, err := spiffeid.FromString("spiffe://" + m.GetTrustDomain() + m.GetPath())
	if err != nil {
		return id, fmt.Errorf("%w: entry: %w", ErrAnswer, err)
	}
	return id, nil
}

// Request asks for one SVID.
type Request struct {
	EntryID string
	ID      spiffeid.ID // of the entry
	Key     crypto.Signer
}

// Result answers one Request: an SVID, or an error that matches ErrRefused or
// ErrAnswer.
type Result struct {
	SVID *x509svid.SVID
	Err  error
}

// NewX509SVIDs asks for SVIDs; results are in the order of requests. The error
// is that of a whole call: then there are no results.
func (c *Client) NewX509SVIDs(ctx context.Context, requests []Request) ([]Result, error) {
	out := make([]Result, 0, len(requests))
	for len(requests) > 0 {
		batch := requests[:min(pageSize, len(requests))]
		requests = requests[len(batch):]
		req := &svidv1.BatchNewX509SVIDRequest{}
		for _, r := range batch {
			csr, err := request(r.Key, r.ID)
			if err != nil {
				return nil, err
			}
			req.Params = append(req.Params, &svidv1.NewX509SVIDParams{EntryId: r.EntryID, Csr: csr})
		}
		resp, err := svidv1.NewSVIDClient(c.conn).BatchNewX509SVID(ctx, req)
		if err != nil {
			return nil, c.conn.explain(err)
		}
		if len(resp.GetResults()) != len(batch) {
			return nil, fmt.Errorf("%w: %d results for %d requests", ErrAnswer, len(resp.GetResults()), len(batch))
		}
		for i, r := range resp.GetResults() {
			var result Result
			if code := codes.Code(r.GetStatus().GetCode()); code != codes.OK {
				result.Err = fmt.Errorf("%w (%s): SVID of %s: %s: %s", ErrRefused, c.conn.cfg.Addr, batch[i].ID, code, r.GetStatus().GetMessage())
			} else {
				result.SVID, result.Err = c.conn.cfg.accept(r.GetSvid(), batch[i].Key, batch[i].ID)
			}
			out = append(out, result)
		}
	}
	return out, nil
}

// Renew returns a new agent SVID for key. It takes over when first shown.
func (c *Client) Renew(ctx context.Context, key crypto.Signer) (*x509svid.SVID, error) {
	csr, err := request(key, spiffeid.ID{})
	if err != nil {
		return nil, err
	}
	resp, err := agentv1.NewAgentClient(c.conn).RenewAgent(ctx, &agentv1.RenewAgentRequest{Params: &agentv1.AgentX509SVIDParams{Csr: csr}})
	if err != nil {
		return nil, c.conn.explain(err)
	}
	return c.conn.cfg.accept(resp.GetSvid(), key, c.svid.ID)
}

// PostStatus tells the server which bundle is in use.
func (c *Client) PostStatus(ctx context.Context, bundleSerial uint64, version string) error {
	return c.postStatus(ctx, bundleSerial, version)
}

func (c *Client) postStatus(ctx context.Context, bundleSerial uint64, version string, opts ...grpc.CallOption) error {
	_, err := agentv1.NewAgentClient(c.conn).PostStatus(ctx, &agentv1.PostStatusRequest{CurrentBundleSerial: bundleSerial, AgentVersion: version}, opts...)
	return c.conn.explain(err)
}

// Enrolment is what a bailiwick issuer gives an attested node. The caller
// verifies each part: epoch.Verify, endorse.Verify, trust.Set.
type Enrolment struct {
	Node         spiffeid.ID // the node's own name
	Class        string      // its limits class
	Epoch        []byte      // certificate, DER
	Spare        []byte      // certificate of the epoch after, DER
	Endorsement  []byte      // of the AK; empty without a TPM
	TrustRecords [][]byte
	PolicyHeads  [][]byte // signed policy records, below whose versions is none to be taken; at most MaxPolicyHeads
}

// MaxPolicyHeads is how many policy records of an answer are read: one of each level.
const MaxPolicyHeads = 3

// Enrol asks for an Enrolment with the agent SVID. feed may be nil if a TPM
// attested it; epoch is the one the feed is in, 0 for none; prevHead the RecordID
// before that epoch, or empty; counter the epoch counter of the node's TPM, 0 without
// one: once it has grown there are new numbers, of which no copy of the disk knows.
func (c *Client) Enrol(ctx context.Context, feed *ecdsa.PublicKey, epoch uint64, prevHead []byte, counter uint64) (Enrolment, error) {
	req := &issuerv1.EnrolRequest{Epoch: epoch, PrevHead: prevHead, Counter: counter}
	if feed != nil {
		der, err := x509.MarshalPKIXPublicKey(feed)
		if err != nil {
			return Enrolment{}, err
		}
		req.FeedKey = der
	}
	resp, err := issuerv1.NewIssuerClient(c.conn).Enrol(ctx, req)
	if err != nil {
		return Enrolment{}, c.conn.explain(err)
	}
	node, err := spiffeid.FromString(resp.GetSpiffeId())
	if err != nil || node.TrustDomain() != c.conn.cfg.TrustDomain || len(resp.GetEpochCertificates()) != 2 {
		return Enrolment{}, fmt.Errorf("%w: enrolment of %q with %d epoch certificates", ErrAnswer, resp.GetSpiffeId(), len(resp.GetEpochCertificates()))
	}
	return Enrolment{
		Node: node, Class: resp.GetLimitsClass(), Epoch: resp.GetEpochCertificates()[0], Spare: resp.GetEpochCertificates()[1],
		Endorsement: resp.GetAkEndorsement(), TrustRecords: resp.GetTrustRecords(),
		PolicyHeads: resp.GetPolicyHeads()[:min(len(resp.GetPolicyHeads()), MaxPolicyHeads)],
	}, nil
}
