program heat
  implicit none
  integer, parameter :: cells = 10
  real :: grid(cells)
  integer :: i, step

  grid = 0.0
  grid(1) = 100.0
  do step = 1, 20
    do i = 2, cells - 1
      grid(i) = (grid(i - 1) + grid(i + 1)) / 2.0
    end do
  end do
  print *, grid(5)
end program heat
