package interop

import (
	"strings"
	"testing"
)

// unique names a cell's workload.
func (m method) unique(member string) string {
	return strings.NewReplacer(" ", "-", "/", "-").Replace(member + "-" + m.name)
}

// TestMatrix is every member at every server by every method, and what befalls
// them.
func TestMatrix(t *testing.T) {
	p := newPKI(t)
	for _, side := range []struct {
		client, agent column
		open          func(*testing.T, *pki) *server
	}{{oursAtOurs, agentAtOurs, newIssuer}, {oursAtSpire, agentAtSpire, newStock}} {
		s := side.open(t, p)
		for _, m := range methods {
			if m.ours && !s.ours {
				continue
			}
			cell(t, side.client, m.name, func(t *testing.T) { clientCell(t, s, p, m) })
			if !m.ours {
				cell(t, side.agent, m.name, func(t *testing.T) { agentCell(t, s, p, m) })
			}
		}
		for _, i := range incidents {
			on := func(t *testing.T) *server {
				if i.alone {
					return side.open(t, p)
				}
				return s
			}
			cell(t, side.client, i.name, func(t *testing.T) { i.client(t, on(t), p) })
			cell(t, side.agent, i.name, func(t *testing.T) { i.agent(t, on(t), p) })
		}
	}
	for _, o := range []struct {
		name string
		cell func(t *testing.T, p *pki)
	}{
		{"spire-server command at our socket", commandCell},
		{"our issuer below spire-server", nestedCell},
		{"our issuer below, by token, too early", nestedByTokenCell},
		{"our node, away while the root was replaced", awayCell},
		{"our DevID at spire-server", devidCell},
		{"entries from files alone", filesCell},
		{"odd requests, answered as by SPIRE", refusalCell},
		{"a TPM that the global policy denies", deniedCell},
		{"spire-agent that demands post-quantum TLS", strictCell},
	} {
		cell(t, others, o.name, func(t *testing.T) { o.cell(t, p) })
	}
}
