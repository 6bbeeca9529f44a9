package issuer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity"
)

// localAgentAPI is spire.api.server.agent.v1.Agent for the operator.
type localAgentAPI struct {
	agentv1.UnimplementedAgentServer
	*Server
}

// CountAgents counts the agents that pass a filter.
func (s localAgentAPI) CountAgents(_ context.Context, req *agentv1.CountAgentsRequest) (*agentv1.CountAgentsResponse, error) {
	f := req.GetFilter()
	all, err := s.list("", 0, &agentv1.ListAgentsRequest_Filter{ByAttestationType: f.GetByAttestationType(), BySelectorMatch: f.GetBySelectorMatch(),
		ByBanned: f.GetByBanned(), ByCanReattest: f.GetByCanReattest(), ByExpiresBefore: f.GetByExpiresBefore()})
	return &agentv1.CountAgentsResponse{Count: int32(len(all))}, err
}

// ListAgents returns agents in the order of their IDs, by pages.
func (s localAgentAPI) ListAgents(_ context.Context, req *agentv1.ListAgentsRequest) (*agentv1.ListAgentsResponse, error) {
	if req.GetPageSize() < 0 {
		return nil, status.Error(codes.InvalidArgument, "page size is negative")
	}
	page := int(req.GetPageSize())
	all, err := s.list(req.GetPageToken(), page, req.GetFilter())
	if err != nil {
		return nil, err
	}
	out := &agentv1.ListAgentsResponse{}
	if page > 0 && len(all) > page {
		all = all[:page]
		out.NextPageToken = all[page-1].GetId().GetPath()
	}
	for _, a := range all {
		out.Agents = append(out.Agents, maskAgent(a, req.GetOutputMask()))
	}
	return out, nil
}

// list returns the agents after one ID that pass a filter: one more than page, or
// all if page is 0.
func (s localAgentAPI) list(after string, page int, f *agentv1.ListAgentsRequest_Filter) ([]*types.Agent, error) {
	var before time.Time
	if text := f.GetByExpiresBefore(); text != "" {
		var err error
		if before, err = time.Parse("2006-01-02 15:04:05 -0700 -07", text); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "by_expires_before: %v", err)
		}
	}
	var out []*types.Agent
	var bad error
	err := s.cfg.Store.View(func(tx *store.Tx) error {
		tx.Range(agentsBucket, []byte(after), func(k, v []byte) bool {
			var a agent
			if bad = statement.Unmarshal(v, &a); bad != nil {
				return false
			}
			m := agentMessage(&types.SPIFFEID{TrustDomain: s.td.Name(), Path: string(k)}, a)
			switch {
			case string(k) == after,
				f.GetByAttestationType() != "" && f.GetByAttestationType() != a.Type,
				f.GetByBanned() != nil && f.GetByBanned().GetValue() != a.Banned,
				f.GetByCanReattest() != nil && f.GetByCanReattest().GetValue() != a.Reattest,
				!before.IsZero() && a.Expires >= before.Unix(),
				f.GetBySelectorMatch() != nil && !matches(f.GetBySelectorMatch(), m.GetSelectors()):
				return true
			}
			out = append(out, m)
			return page == 0 || len(out) <= page
		})
		return bad
	})
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return out, nil
}

// GetAgent returns one agent.
func (s localAgentAPI) GetAgent(_ context.Context, req *agentv1.GetAgentRequest) (*types.Agent, error) {
	id, err := s.agentID(req.GetId())
	if err != nil {
		return nil, err
	}
	var a agent
	err = s.cfg.Store.View(func(tx *store.Tx) error {
		a, err = loadAgent(tx, id)
		return err
	})
	if err != nil {
		return nil, agentError(err)
	}
	return maskAgent(agentMessage(req.GetId(), a), req.GetOutputMask()), nil
}

// BanAgent bans an agent that attested; it stays known.
func (s localAgentAPI) BanAgent(_ context.Context, req *agentv1.BanAgentRequest) (*emptypb.Empty, error) {
	id, err := s.agentID(req.GetId())
	if err != nil {
		return nil, err
	}
	err = s.cfg.Store.View(func(tx *store.Tx) error {
		_, err := loadAgent(tx, id)
		return err
	})
	if err == nil {
		err = s.Ban(id, "by the local API")
	}
	return &emptypb.Empty{}, agentError(err)
}

// DeleteAgent evicts an agent.
func (s localAgentAPI) DeleteAgent(_ context.Context, req *agentv1.DeleteAgentRequest) (*emptypb.Empty, error) {
	id, err := s.agentID(req.GetId())
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, agentError(s.Evict(id, "by the local API"))
}

// CreateJoinToken makes a join token, or takes the one given, which must be long
// enough not to be guessed. With an agent ID, whoever joins by the token gets that
// ID as well.
func (s localAgentAPI) CreateJoinToken(_ context.Context, req *agentv1.CreateJoinTokenRequest) (*types.JoinToken, error) {
	now := time.Now()
	token := req.GetToken()
	if token == "" {
		token = strings.ToLower(rand.Text())
	}
	switch {
	case s.tokens == nil:
		return nil, status.Error(codes.FailedPrecondition, "join tokens are not accepted here")
	case req.GetTtl() <= 0:
		return nil, status.Error(codes.InvalidArgument, "ttl: must be above zero")
	case len(token) < minToken || len(token) > MaxEvidence:
		return nil, status.Errorf(codes.InvalidArgument, "token: %d bytes, want at least %d", len(token), minToken)
	}
	hash := sha256.Sum256([]byte(token))
	agentID, err := AgentID(s.td, s.tokens.Type(), hex.EncodeToString(hash[:]))
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	var entry *edit
	if req.GetAgentId() != nil {
		id, err := idOf(req.GetAgentId())
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "agent ID: %v", err)
		}
		e := Entry{SPIFFEID: id, ParentID: agentID}
		if _, err := identity.ParseNode(id); err != nil {
			e.Selectors = []string{"spiffe_id:" + agentID.String()}
		}
		entry = s.create("", e, now)
	}
	expires := now.Add(time.Duration(req.GetTtl()) * time.Second)
	store := &edit{do: func(tx *store.Tx, _ *directory) (registered, error) {
		switch {
		case tx.Get(tokensBucket, hash[:]) != nil, !s.tokens.expiry(hash).IsZero():
			return registered{}, errSame
		}
		return registered{Entry: Entry{SPIFFEID: agentID}}, s.tokens.add(tx, hash, expires, now)
	}}
	edits := []*edit{store}
	if entry != nil {
		edits = append(edits, entry)
	}
	if err := s.change("join token", edits); err != nil {
		return nil, unavailable(err)
	}
	for _, e := range edits {
		if e.err != nil {
			return nil, entryError(e.err)
		}
	}
	return &types.JoinToken{Value: token, ExpiresAt: expires.Unix()}, nil
}

// minToken is the shortest join token, in bytes.
const minToken = 16

func (s localAgentAPI) agentID(m *types.SPIFFEID) (spiffeid.ID, error) {
	id, err := idOf(m)
	if err != nil || id.TrustDomain() != s.td || !isAgent(id) {
		return id, status.Errorf(codes.InvalidArgument, "%q is no agent ID of %s", m.GetPath(), s.td)
	}
	return id, nil
}

func idOf(m *types.SPIFFEID) (spiffeid.ID, error) {
	return spiffeid.FromString("spiffe://" + m.GetTrustDomain() + m.GetPath())
}

func agentError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrUnknownAgent):
		return status.Error(codes.NotFound, "agent not found")
	}
	return status.Error(codes.Internal, err.Error())
}

func agentMessage(id *types.SPIFFEID, a agent) *types.Agent {
	m := &types.Agent{Id: id, AttestationType: a.Type, X509SvidExpiresAt: a.Expires, Banned: a.Banned, CanReattest: a.Reattest, AgentVersion: a.Version}
	if len(a.Serial) > 0 {
		m.X509SvidSerialNumber = new(big.Int).SetBytes(a.Serial).String()
	}
	for _, s := range a.Selectors {
		m.Selectors = append(m.Selectors, selector(s))
	}
	return m
}

func selector(s string) *types.Selector {
	kind, value, _ := strings.Cut(s, ":")
	return &types.Selector{Type: kind, Value: value}
}

func maskAgent(a *types.Agent, m *types.AgentMask) *types.Agent {
	if m == nil {
		return a
	}
	out := &types.Agent{Id: a.Id}
	if m.AttestationType {
		out.AttestationType = a.AttestationType
	}
	if m.X509SvidSerialNumber {
		out.X509SvidSerialNumber = a.X509SvidSerialNumber
	}
	if m.X509SvidExpiresAt {
		out.X509SvidExpiresAt = a.X509SvidExpiresAt
	}
	if m.Selectors {
		out.Selectors = a.Selectors
	}
	out.Banned = m.Banned && a.Banned
	out.CanReattest = m.CanReattest && a.CanReattest
	if m.AgentVersion {
		out.AgentVersion = a.AgentVersion
	}
	return out
}

// matches compares selectors as SPIRE does.
func matches(want *types.SelectorMatch, have []*types.Selector) bool {
	text := func(all []*types.Selector) (out []string) {
		for _, s := range all {
			out = append(out, s.GetType()+":"+s.GetValue())
		}
		return out
	}
	w, h := text(want.GetSelectors()), text(have)
	switch want.GetMatch() {
	case types.SelectorMatch_MATCH_EXACT:
		return subset(w, h) && subset(h, w)
	case types.SelectorMatch_MATCH_SUBSET: // of those wanted
		return subset(h, w)
	case types.SelectorMatch_MATCH_SUPERSET:
		return subset(w, h)
	case types.SelectorMatch_MATCH_ANY:
		return slices.ContainsFunc(w, func(s string) bool { return slices.Contains(h, s) })
	}
	return false
}
