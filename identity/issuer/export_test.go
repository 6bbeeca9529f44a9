package issuer

// BoundEntries is for tests of the bound, which is large.
func (s *Server) BoundEntries(most int) { s.maxEntries = most }
