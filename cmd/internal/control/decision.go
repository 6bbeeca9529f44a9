package control

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// DecisionMessage is a decision as the API shows it.
func DecisionMessage(d policy.Decision) *controlv1.Decision {
	m := &controlv1.Decision{
		Id: d.ID, Kind: string(d.Kind), Allow: d.Allow, Level: d.Level, Rule: d.Rule, Title: d.Title, Reason: d.Reason,
		Owner: d.Owner, Labels: d.Labels(), File: d.File, Line: uint32(d.Line), Revision: d.Revision, At: timestamppb.New(d.At), InputJson: string(d.Input),
	}
	for _, v := range d.Verdicts {
		mv := &controlv1.Verdict{Level: v.Level, Verdict: string(v.Outcome)}
		for _, r := range v.Rules {
			mv.Rules = append(mv.Rules, r.ID)
		}
		m.Verdicts = append(m.Verdicts, mv)
	}
	return m
}
