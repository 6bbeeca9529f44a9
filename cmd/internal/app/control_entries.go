package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

// signer returns the issuer of this node, or an error that says who else is one.
func (h handler) signer() (*issuer.Server, error) {
	if s := h.issuer(); s != nil {
		return s, nil
	}
	if h.issuing != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the issuer of this node waits for its upstream to certify it"))
	}
	var others []string
	for _, n := range h.dir.neighbours() {
		if slices.Contains(n.record.Roles, roleIssuer) {
			others = append(others, n.id.String())
		}
	}
	return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("this node is no issuer: ask one that is %v", others))
}

// ListEntries lists the issuer's entries.
func (h handler) ListEntries(ctx context.Context, _ *controlv1.ListEntriesRequest) (*controlv1.ListEntriesResponse, error) {
	s, err := h.signer()
	if err != nil {
		return nil, err
	}
	all, err := s.Entries()
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	resp := &controlv1.ListEntriesResponse{View: h.view(ctx)}
	for _, e := range all {
		resp.Items = append(resp.Items, registeredMessage(&e))
	}
	return resp, nil
}

// ApplyEntries applies, or tells what that would change. The issuer writes each change to the trail.
func (h handler) ApplyEntries(ctx context.Context, req *controlv1.ApplyEntriesRequest) (*controlv1.ApplyEntriesResponse, error) {
	s, err := h.signer()
	if err != nil {
		return nil, err
	}
	entries := make([]issuer.Entry, len(req.Entries))
	for i, m := range req.Entries {
		if entries[i], err = entryFrom(m); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("entry %d: %w", i, err))
		}
	}
	if !req.DryRun {
		if err := h.admin(ctx, "entry apply", map[string]any{"entries": len(entries), "prune": req.Prune}); err != nil {
			return nil, err
		}
	}
	got, err := s.Apply(entries, issuer.Apply{Prune: req.Prune, DryRun: req.DryRun})
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	resp := &controlv1.ApplyEntriesResponse{View: h.view(ctx), Unchanged: uint32(got.Unchanged)}
	for _, c := range got.Changes {
		m := &controlv1.EntryChange{Action: "create", Entry: registeredMessage(c.After), Before: registeredMessage(c.Before)}
		switch {
		case c.After == nil:
			m.Action, m.Entry, m.Before = "delete", m.Before, nil
		case c.Before != nil:
			m.Action = "update"
		}
		resp.Changes = append(resp.Changes, m)
	}
	for i := range entries {
		if why := got.Refused[i]; why != nil {
			resp.Refusals = append(resp.Refusals, &controlv1.EntryRefusal{Index: uint32(i), Reason: strings.TrimPrefix(why.Error(), issuer.ErrEntry.Error()+": ")})
		}
	}
	return resp, nil
}

// DeleteEntry takes one entry away.
func (h handler) DeleteEntry(ctx context.Context, req *controlv1.DeleteEntryRequest) (*controlv1.DeleteEntryResponse, error) {
	s, err := h.signer()
	if err != nil {
		return nil, err
	}
	id, err := entryID(s, req.Id)
	if err != nil {
		return nil, err
	}
	if err := h.admin(ctx, "entry delete", map[string]any{"entry": id}); err != nil {
		return nil, err
	}
	gone, err := s.Delete(id)
	switch {
	case errors.Is(err, issuer.ErrNoEntry):
		return nil, connect.NewError(connect.CodeNotFound, err)
	case errors.Is(err, issuer.ErrEntry):
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	case err != nil:
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	return &controlv1.DeleteEntryResponse{View: h.view(ctx), Entry: registeredMessage(&gone)}, nil
}

// entryID finds the one entry whose ID begins so.
func entryID(s *issuer.Server, prefix string) (string, error) {
	all, err := s.Entries()
	if err != nil {
		return "", connect.NewError(connect.CodeInternal, err)
	}
	var found []string
	for _, e := range all {
		if e.ID == prefix {
			return prefix, nil
		}
		if len(prefix) >= 4 && strings.HasPrefix(e.ID, prefix) {
			found = append(found, e.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", connect.NewError(connect.CodeNotFound, fmt.Errorf("%w: %q", issuer.ErrNoEntry, prefix))
	case 1:
		return found[0], nil
	}
	return "", connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d entries have IDs that begin with %q: write more of it", len(found), prefix))
}

func registeredMessage(r *issuer.Registered) *controlv1.Entry {
	if r == nil {
		return nil
	}
	m := EntryMessage(r.Entry)
	m.Id, m.From, m.InForce = r.ID, r.From, r.InForce
	return m
}

// EntryMessage is an entry in the words of the control API.
func EntryMessage(e issuer.Entry) *controlv1.Entry {
	m := &controlv1.Entry{
		SpiffeId: e.SPIFFEID.String(), ParentId: e.ParentID.String(), Selectors: e.Selectors, Class: e.Class,
		X509TtlSeconds: e.X509TTL.Seconds(), JwtTtlSeconds: e.JWTTTL.Seconds(), DnsNames: e.DNSNames, Hint: e.Hint,
	}
	for _, td := range e.FederatesWith {
		m.FederatesWith = append(m.FederatesWith, td.Name())
	}
	if !e.Expires.IsZero() {
		m.Expires = timestamppb.New(e.Expires)
	}
	return m
}

// entryFrom is EntryMessage the other way.
func entryFrom(m *controlv1.Entry) (e issuer.Entry, err error) {
	if e.SPIFFEID, err = spiffeid.FromString(m.SpiffeId); err != nil {
		return e, fmt.Errorf("spiffe_id: %w", err)
	}
	if e.ParentID, err = spiffeid.FromString(m.ParentId); err != nil {
		return e, fmt.Errorf("parent_id: %w", err)
	}
	for _, name := range m.FederatesWith {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return e, fmt.Errorf("federates_with: %w", err)
		}
		e.FederatesWith = append(e.FederatesWith, td)
	}
	e.Selectors, e.Class, e.DNSNames, e.Hint = m.Selectors, m.Class, m.DnsNames, m.Hint
	e.X509TTL, e.JWTTTL = time.Duration(m.X509TtlSeconds*float64(time.Second)), time.Duration(m.JwtTtlSeconds*float64(time.Second))
	if m.Expires != nil {
		e.Expires = m.Expires.AsTime()
	}
	return e, nil
}
