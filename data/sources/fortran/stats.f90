module stats
  implicit none
contains
  function mean(values) result(average)
    real, intent(in) :: values(:)
    real :: average
    average = sum(values) / size(values)
  end function mean

  subroutine scale(values, factor)
    real, intent(inout) :: values(:)
    real, intent(in) :: factor
    values = values * factor
  end subroutine scale
end module stats
