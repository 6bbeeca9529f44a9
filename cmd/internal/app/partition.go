package app

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// partition refuses packets of whole trust domains, in dev fleets only.
type partition struct {
	dir  *directory
	link func() []link.Peer

	mu      sync.RWMutex // held for map look-ups; a packet waits for it
	domains map[string]bool
	refused map[netip.AddrPort]bool
}

func (p *partition) refuses(addr netip.AddrPort) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.refused[netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())]
}

// set begins or ends the refusal of a trust domain's packets: those of every
// address at which one of its nodes is known.
func (p *partition) set(td spiffeid.TrustDomain, refuse bool) error {
	if refuse && !p.dir.knows(td) {
		return fmt.Errorf("no address of %s is known here", td)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.domains == nil {
		p.domains = map[string]bool{}
	}
	p.domains[td.Name()] = refuse
	refused := map[netip.AddrPort]bool{}
	for addr, id := range p.dir.foreign() {
		if p.domains[id.Name()] {
			refused[addr] = true
		}
	}
	for _, peer := range p.link() {
		if p.domains[peer.ID.TrustDomain().Name()] {
			refused[peer.Addr] = true
		}
	}
	for addr := range p.refused { // what was refused stays so while its domain may be: its links are gone by then
		if refuse {
			refused[addr] = true
		}
	}
	p.refused = refused
	return nil
}
