// Package attack holds one test for each way to attack the trails of a region that we
// know of. Its nodes have the real parts: store, trail, witness, custodian, case files;
// what the network would carry is a call. As in test/attack, whatever stops an attack is
// marked in the code, and `make mutate` takes it out and demands that the test fails.
//
//	attack                                  who notices             what comes of it
//	TestRestoredDisk                        its witnesses           refusal and hint; a proof once it goes on
//	  an old copy of the disk is put back   the node itself         it does not open a trail it is behind of
//	TestRewrittenTrail                      its witnesses           proof: two roots of one size
//	TestTruncatedTail                       witness, auditor,       refusal and hint: a restore
//	                                        custodian               looks the same
//	TestTwoHeads                            whoever sees both       proof; neither is witnessed
//	TestCollusion                           who judges cosignatures two of four, or any number
//	                                                                of others, make no quorum
//	TestForgedWitnesses                     auditor                 shown as unwitnessed: nobody vouches
//	                                                                for the keys
//	TestFalseCertificates                   auditor                 the leaf is told that holds one of a
//	                                                                foreign root, another node, or ended
//	TestBackDated                           who judges cosignatures the time by which it was seen is
//	                                        auditor                 that of an honest witness; that it was
//	                                                                too late for the key is told
//	TestForeignKeys                         witness, custodian,     nothing is taken for a node's that its
//	                                        auditor                 endorsed trail key does not vouch for
//	TestFalseAccusation                     everybody               evidence is checked, nobody convicted
//	TestSwappedPayload                      auditor, custodian      the leaf has another digest
//	TestReplayedLeaf                        auditor, custodian      it is under no head of this trail
//	TestDeletedCustodian                    the other custodians    another stands in, the copy is whole
//	TestLostDisk                            auditor                 one copy alone shows what the trail
//	                                                                did, and who had seen it by when
//	TestFlippedBit                          auditor                 any bit of a case file
//
// Every test ends with region.unharmed: each honest node records, its heads are witnessed,
// and nobody accuses one.
package attack
