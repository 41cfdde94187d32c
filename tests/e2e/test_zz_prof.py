import cProfile, pstats
from tests.e2e.conftest import *
from tests.e2e.test_random_histories import *
def test_p(lab, secrets):
    h = History(5,(5*MIB+3*SECTOR, 129*512),1,(Cycle(Cut.IN_APPLY,True,4,True,2),),(Cycle(Cut.IN_TRANSFER,False,4,False,1),Cycle(Cut.NOWHERE,True,5,False,0)))
    p=cProfile.Profile(); p.enable()
    Play(lab,h).run()
    p.disable(); pstats.Stats(p).sort_stats('cumtime').print_stats(70)
